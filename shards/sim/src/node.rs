//! One machine: its disk, its clock, and the process that runs there or does not.

use std::collections::BTreeMap;
use std::fmt;

use types::{GroupId, NodeId, Offset, ShardId, ShardLayout};

use crate::disk::Disk;
use crate::process::{Lane, Process, node_id};

/// A shard of a node, by the node's place in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The node.
    pub node: usize,
    /// The shard.
    pub shard: ShardId,
}

impl Place {
    /// The node's id.
    pub fn node_id(self) -> NodeId {
        node_id(self.node)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node_id(), self.shard)
    }
}

/// A byte of a segment that is not what was written.
#[derive(Clone, Copy, Debug)]
pub struct Rot {
    /// The group.
    pub group: GroupId,
    /// The segment.
    pub segment: Offset,
    /// Which byte.
    pub at: usize,
    /// What was written.
    pub was: u8,
    /// What is there.
    pub is: u8,
}

/// See the module.
#[derive(Default)]
pub struct Node {
    /// Lives through crashes.
    pub disk: Disk,
    /// What runs.
    pub process: Option<Process>,
    /// The shards that have shut down.
    pub shut_down: Vec<ShardId>,
    /// How long the process stays away when it has shut down, and what it is then.
    pub restart: Option<(u64, ShardLayout)>,
    /// How far the wall clock is off.
    pub wall_skew_ms: i64,
    /// When the last message from one shard to another arrives.
    pub rings: BTreeMap<(ShardId, ShardId), u64>,
    /// The disk is slow before this time.
    pub slow_until_us: u64,
    /// The disk completes nothing before this time.
    pub hung_until_us: u64,
    /// Reads fail now and then before this time.
    pub reads_fail_until_us: u64,
    /// The next write fails.
    pub write_fails: bool,
    /// Power fails at the next change of files, and the node stays down for so long.
    pub crashes_at_file_change: Option<u64>,
    /// What is wrong with the disk may end the process before this time.
    pub damaged_until_us: u64,
    /// The process does not run on before this time, though it is there (SIGSTOP).
    pub paused_until_us: u64,
    /// Since when the process runs without a pause.
    pub awake_us: u64,
    /// The process has ended itself and is about to be gone.
    pub is_ending: bool,
    /// Bytes of segments that have changed by themselves.
    pub rot: Vec<Rot>,
    /// Whether the data directory remembers the cluster.
    pub has_joined: bool,
}

impl Node {
    /// The run of the process, while there is one.
    pub fn incarnation(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.incarnation)
    }

    /// Whether a process runs that takes events.
    pub fn runs(&self) -> bool {
        self.process.is_some() && !self.is_ending
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.lanes.len())
    }

    /// A shard of the process.
    ///
    /// # Panics
    ///
    /// When nothing runs.
    pub fn lane(&mut self, shard: ShardId) -> &mut Lane {
        self.process.as_mut().expect("the process runs").lane(shard)
    }
}
