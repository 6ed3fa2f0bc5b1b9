//! What happens to a shard, and what a shard wants done: the whole boundary between the pure core and its driver.
//!
//! A driver feeds [`Event`]s into [`crate::Shard::step`] one at a time and carries out the [`Effect`]s of each
//! step in their order before it feeds the next. Effects of one step that need I/O run concurrently; their
//! completions come back as events, in any order unless said otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use log::wal::Flush;
use metadata::MetadataImage;
use types::{ConnectionId, DirectoryId, GroupId, NodeId, Offset, ShardId, Term};

use broker::{Op, OpResult, OpToken};

use crate::peer_message::PeerMessage;
use crate::throttle::PullKinds;

/// Identifies a disk request among those of its shard that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskToken(pub u64);

/// Why a disk request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The file system is full (ENOSPC, EDQUOT). Nothing before the request's position was changed; the
    /// same request may be made again later.
    NoSpace,
    /// Anything else, in words that name file and operation. What was written is unknown, and a failed flush is
    /// never retried.
    Failed(String),
}

/// What a disk request brought.
#[derive(Debug)]
pub enum DiskAnswer {
    /// A write, creation or removal is durable.
    Done,
    /// The bytes that a read found: as many as asked for, or fewer at the end of the file.
    Bytes(Bytes),
    /// A segment's index files, offset index first; empty where the file is missing.
    Indexes {
        /// Content of the `.index` file.
        offsets: Bytes,
        /// Content of the `.timeindex` file.
        times: Bytes,
    },
    /// The file system of the data directory.
    Space {
        /// Its size.
        total_bytes: u64,
        /// What of it this process may still write.
        usable_bytes: u64,
    },
}

/// Something that happened.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "an event is moved into a step once and taken apart there")]
pub enum Event {
    /// A client connected. `ConnectionId`s are given out by the driver and never used again.
    Connected {
        /// The new connection.
        connection: ConnectionId,
        /// The client's address, as group descriptions show it (`/127.0.0.1`).
        client_host: String,
    },
    /// A connection is closed, by either side. The last event of this connection.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
    },
    /// One request came in: the frame without its length prefix. Frames of a connection come in their order.
    Frame {
        /// The connection.
        connection: ConnectionId,
        /// The request, header first, alone in its allocation.
        frame: BytesMut,
    },
    /// The socket took `bytes` of the responses of this connection.
    ResponseSent {
        /// The connection.
        connection: ConnectionId,
        /// How many bytes left the queue.
        bytes: usize,
    },
    /// A message of another shard of this process. Messages of one shard come in their order.
    FromShard {
        /// The sender.
        from: ShardId,
        /// The message.
        message: ShardMessage,
    },
    /// The WAL write of this number, and every one before it, is durable.
    WalFlushed {
        /// The number given in [`Effect::WriteWal`].
        flush: u64,
    },
    /// A WAL file was made (or recycled) and is zeroed, preallocated and durable in its directory, or could not be.
    WalFileReady {
        /// The file's sequence number.
        file: u64,
        /// Whether it is there.
        result: Result<(), DiskError>,
    },
    /// A disk request ended.
    Disk {
        /// The request.
        token: DiskToken,
        /// What came of it.
        result: Result<DiskAnswer, DiskError>,
    },
    /// The connection of this shard to another node is up: what is sent from now on arrives in its order, for as long as
    /// it lasts.
    PeerConnected {
        /// The other node.
        peer: NodeId,
    },
    /// The connection of this shard to another node is gone: what was sent may be lost in part, and what is sent is
    /// dropped, until [`Event::PeerConnected`].
    PeerDisconnected {
        /// The other node.
        peer: NodeId,
        /// Its machine refuses connections, so that its process has ended.
        has_ended: bool,
    },
    /// Another node has connected to this shard anew. What it sent over an earlier connection has all come or is lost.
    PeerJoined {
        /// The other node.
        peer: NodeId,
    },
    /// A frame came from another node, in the order in which it was sent over its connection.
    FromPeer {
        /// The sender.
        peer: NodeId,
        /// The frame without its length prefix, alone in its allocation, checked against its checksum.
        frame: Bytes,
    },
    /// The socket took `bytes` of what was given for a peer, or the connection dropped them.
    PeerSent {
        /// The receiver.
        peer: NodeId,
        /// How many bytes left the queue.
        bytes: usize,
    },
    /// All events that were ready in this turn of the loop have been fed: groups with work are driven now, so that
    /// everything that came in together shares one flush. Comes after each burst of other events.
    TurnEnded,
    /// The time of [`crate::Shard::next_deadline_us`] has come.
    DeadlineReached,
    /// The process was asked to end: finish what was accepted, then say [`Effect::ShutdownComplete`].
    ShutdownRequested,
}

/// Something to do.
#[derive(Debug)]
pub enum Effect {
    /// Write the parts, in order, behind what was already given for this connection.
    Respond {
        /// The connection; if it is gone, nothing happens.
        connection: ConnectionId,
        /// The response, length prefix first, in pieces that are not to be copied together.
        parts: Vec<Bytes>,
    },
    /// Write out what was given for the connection, then close it.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Why, for the log.
        reason: String,
    },
    /// Close the connection at once; what it was given and has not taken goes.
    Abort {
        /// The connection.
        connection: ConnectionId,
        /// Why, for the log.
        reason: String,
    },
    /// Stop or resume taking requests from a connection. A connection starts out reading.
    SetReading {
        /// The connection.
        connection: ConnectionId,
        /// Whether requests are to be read.
        reading: bool,
    },
    /// Put a message into the ring to another shard.
    SendToShard {
        /// The receiver, never this shard.
        to: ShardId,
        /// The message.
        message: ShardMessage,
    },
    /// Keep a connection from this shard to each of these nodes, and to no others: dial them, again and again where it
    /// must be. Answered by [`Event::PeerConnected`] each time one is up.
    SetPeers {
        /// The nodes, ascending, without this one.
        peers: Vec<PeerAddress>,
    },
    /// The data directories that nodes are registered with: talk to a node that comes with another one no more, in
    /// neither direction, because it may have lost what it promised. Adds to what was said before.
    KnownDirectories {
        /// The nodes, each with its directory; `None` where it may come with any, from now on.
        directories: Vec<(NodeId, Option<DirectoryId>)>,
    },
    /// Send a frame to another node, behind what was already given for it. Dropped where it is not connected.
    SendToPeer {
        /// The receiver.
        to: NodeId,
        /// The body of the frame, in pieces that are not to be copied together. The driver adds length and checksum.
        parts: Vec<Bytes>,
    },
    /// The cluster's id is known, and this node has joined it. Said once, by the metadata shard.
    Joined {
        /// The cluster's id, to be remembered in the data directory.
        cluster_id: String,
    },
    /// Make a WAL file of `limits::WAL_FILE_BYTES` zeroes; answered by [`Event::WalFileReady`].
    CreateWalFile {
        /// Its sequence number.
        file: u64,
    },
    /// Give a WAL file that is no longer needed a new number, by rename; answered by [`Event::WalFileReady`].
    RecycleWalFile {
        /// The old sequence number.
        from: u64,
        /// The new one.
        file: u64,
    },
    /// Write a flush at a position of a WAL file and make it durable; answered by [`Event::WalFlushed`].
    /// Only one is under way at a time. A failure ends the process.
    WriteWal {
        /// The number to answer with.
        number: u64,
        /// The file's sequence number.
        file: u64,
        /// Where in the file, a multiple of `limits::BLOCK_BYTES`.
        position: u64,
        /// What to write.
        flush: Flush,
    },
    /// Work on segment files; answered by [`Event::Disk`].
    Disk {
        /// The token to answer with.
        token: DiskToken,
        /// What to do.
        request: DiskRequest,
    },
    /// Something that an operator should know, for the log.
    Warn(String),
    /// Everything that was accepted is answered and durable: the driver may end.
    ShutdownComplete,
    /// The shard cannot go on: end the process with the reason's exit code.
    Fatal(FatalReason),
}

/// Where the other nodes reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node.
    pub node: NodeId,
    /// A host name or an address, as it was configured.
    pub host: String,
    /// The TCP port of `--raft-addr`.
    pub port: u16,
}

/// Why a shard ends its process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatalReason {
    /// A WAL file could not be made or renamed, for a reason other than space.
    #[error("a WAL file could not be prepared: {0}")]
    WalFile(String),
    /// A segment could not be written or flushed, for a reason other than space.
    #[error("a segment write failed, and what reached the disk is unknown: {0}")]
    SegmentWrite(String),
    /// Data that must be there is not.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

/// Work on the segment files of one group, which live in a folder of their own.
#[derive(Debug)]
pub enum DiskRequest {
    /// Make the group's folder with its `partition.metadata` file, where they are missing, and remove all segments that
    /// are not named: a crash left them.
    CreateGroup {
        /// The group.
        group: GroupId,
        /// The content of `partition.metadata`.
        description: String,
        /// Base offsets of the segments that stay as they are.
        segments: Vec<Offset>,
    },
    /// Remove the group's folder and all in it; done if it is not there.
    RemoveGroup {
        /// The group.
        group: GroupId,
    },
    /// Write `data` at `position` of a segment, cut the file behind it, and make it durable; then put entries into its
    /// indexes and cut them behind. A crash in between changes no byte before `position`. Makes the files at position 0, with
    /// the entries first: no checkpoint knows of the segment yet.
    /// Indexes are made durable only where `data` is empty: the segment is then complete.
    AppendSegment {
        /// The group.
        group: GroupId,
        /// The segment's base offset.
        segment: Offset,
        /// Where `data` starts: the length of what is durable already.
        position: u64,
        /// Whole record batches.
        data: Vec<Bytes>,
        /// Entries for the `.index` file, and where in it they start.
        offsets: (u64, Bytes),
        /// Entries for the `.timeindex` file, and where in it they start.
        times: (u64, Bytes),
        /// Whether something waits for it. Otherwise it may take its time, for the sake of the WAL's writes.
        in_a_hurry: bool,
    },
    /// Remove segments with their indexes.
    RemoveSegments {
        /// The group.
        group: GroupId,
        /// Base offsets.
        segments: Vec<Offset>,
    },
    /// Read bytes of a segment.
    ReadSegment {
        /// The group.
        group: GroupId,
        /// The segment's base offset.
        segment: Offset,
        /// The first byte.
        position: u64,
        /// How many bytes.
        length: usize,
    },
    /// Read both index files of a segment.
    ReadIndexes {
        /// The group.
        group: GroupId,
        /// The segment's base offset.
        segment: Offset,
    },
    /// Say how much room the file system has.
    MeasureSpace,
}

/// What shards of one process tell one another.
#[derive(Debug)]
pub enum ShardMessage {
    /// Do this for a request of one of my connections.
    Op {
        /// Names the request and its part; the answer carries it.
        token: OpToken,
        /// What to do.
        op: Op,
    },
    /// What came of an `Op`.
    OpDone {
        /// The token of the `Op`.
        token: OpToken,
        /// The result.
        result: OpResult,
    },
    /// The metadata shard publishes the newest image.
    Image(Arc<MetadataImage>),
    /// The nodes that the metadata shard hears, this one among them.
    Alive(Arc<BTreeSet<NodeId>>),
    /// A message of another node for a group of the receiver, which came over a connection of the sender.
    FromPeer {
        /// The other node.
        peer: NodeId,
        /// The message.
        message: PeerMessage,
    },
    /// A group has a new leader or term: from the group's shard to the metadata shard, and from there to all.
    /// By this way every shard knows of the leader before it hears that the topic's creation is complete.
    Leader(LeaderChange),
    /// The replicas of a partition are where they were to be: from the shard of its leader to the metadata shard.
    Moved {
        /// The partition's group.
        group: GroupId,
        /// The number of the decision that was carried out.
        decision: u32,
    },
    /// The sender has such pulls, and shares the node's rates for them with the others that do.
    Pulls(PullKinds),
}

/// Who leads a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderChange {
    /// The group.
    pub group: GroupId,
    /// The term.
    pub term: Term,
    /// The leader that serves requests in this term; `None` while there is none.
    pub leader: Option<NodeId>,
    /// The replicas that are in sync, as the leader says; empty where this comes from another replica.
    pub in_sync: Arc<[NodeId]>,
}

impl LeaderChange {
    /// Whether the leader itself says that it serves. Another replica knows of a leader before that.
    pub(crate) fn serves(&self) -> bool {
        self.leader.is_some() && !self.in_sync.is_empty()
    }
}
