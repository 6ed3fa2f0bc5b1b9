//! What the threads of one node know together about the cluster: who is asked in handshakes, and what was said of peers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shard::PeerAddress;
use types::{DirectoryId, NodeId, ShardId};

use crate::peer_handshake::{DialError, Hello, Refusal};

/// How long a caller waits while this node is still starting, before it is refused.
const START_WAIT_MAX: Duration = Duration::from_millis(500);

/// Who this node is among others. Shared by its shards, its listener for peers and its supervisor; lives as long as the node.
#[derive(Debug)]
pub(crate) struct Identity {
    own: Own,
    known: Mutex<Known>,
    is_more_known: Condvar,
}

/// What a node is from its start to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    pub(crate) directory_id: DirectoryId,
}

/// A node that is not what it was: it may have lost its log and its votes, and must not act on what it has left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node {node} comes with another data directory ({found}) than it was registered with ({registered}): restore that \
     one, or give the node a new one with `chronik-server cluster replace-node`"
)]
pub(crate) struct OtherDirectory {
    pub(crate) node: NodeId,
    pub(crate) found: DirectoryId,
    pub(crate) registered: DirectoryId,
}

#[derive(Debug)]
struct Known {
    cluster_id: Option<String>,
    /// `None` until the first shard has said.
    peers: Option<BTreeSet<NodeId>>,
    /// The data directories that nodes are registered with; `None` until the metadata shard has said.
    directories: Option<BTreeMap<NodeId, DirectoryId>>,
    /// The last that was logged of each peer.
    said: BTreeMap<NodeId, Said>,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Reached,
    Failed(String),
}

impl Identity {
    pub(crate) fn new(own: Own, cluster_id: Option<String>) -> Identity {
        let known = Known { cluster_id, peers: None, directories: None, said: BTreeMap::new() };
        Identity { own, known: Mutex::new(known), is_more_known: Condvar::new() }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.own.node
    }

    pub(crate) fn directory_id(&self) -> DirectoryId {
        self.own.directory_id
    }

    pub(crate) fn set_cluster_id(&self, cluster_id: &str) {
        self.known().cluster_id = Some(cluster_id.to_owned());
    }

    /// The nodes that may call from now on.
    pub(crate) fn set_peers(&self, peers: BTreeSet<NodeId>) {
        let mut known = self.known();
        known.said.retain(|peer, _| peers.contains(peer));
        known.peers = Some(peers);
        drop(known);
        self.is_more_known.notify_all();
    }

    /// The data directories of these nodes, besides what is known of others; `None` where one may come with any.
    pub(crate) fn know_directories(&self, directories: Vec<(NodeId, Option<DirectoryId>)>) {
        let mut known = self.known();
        let registered = known.directories.get_or_insert_default();
        for (node, directory_id) in directories {
            match directory_id {
                Some(directory_id) => registered.insert(node, directory_id),
                None => registered.remove(&node),
            };
        }
        drop(known);
        self.is_more_known.notify_all();
    }

    /// Whether a node may be what it was, as far as is known.
    ///
    /// # Errors
    ///
    /// [`OtherDirectory`] where it is not.
    pub(crate) fn recognise(&self, node: NodeId, directory_id: DirectoryId) -> Result<(), OtherDirectory> {
        self.known().recognise(node, directory_id)
    }

    /// As [`Identity::recognise`], but blocks for a moment while this node is still starting.
    pub(crate) fn recognise_callee(&self, node: NodeId, directory_id: DirectoryId) -> Result<(), DialError> {
        let known = self.await_known();
        match &known.directories {
            None => Err(DialError::Unreachable(io::Error::other("this node itself is still starting"))),
            Some(_) => Ok(known.recognise(node, directory_id)?),
        }
    }

    /// Whether the node may still call, or has left the set since it was admitted.
    pub(crate) fn is_peer(&self, node: NodeId) -> bool {
        self.known().peers.as_ref().is_some_and(|peers| peers.contains(&node))
    }

    /// What a shard says to the peer that it calls.
    pub(crate) fn hello(&self, callee: NodeId, shard: ShardId) -> Hello {
        let cluster_id = self.known().cluster_id.clone();
        let Own { node: caller, incarnation, directory_id } = self.own;
        Hello { caller, callee, shard, incarnation, directory_id, cluster_id }
    }

    /// Whether a call is taken. Blocks for a moment while this node is still starting.
    pub(crate) fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        let (own, caller, called) = (self.own.node, hello.caller, hello.callee);
        if caller == own {
            let is_oneself = hello.incarnation == self.own.incarnation;
            return Err(if is_oneself { Refusal::Oneself } else { Refusal::SameNode { own } });
        }
        if called != own {
            return Err(Refusal::OtherNode { called, own });
        }
        let known = self.await_known();
        if let (Some(own), Some(theirs)) = (&known.cluster_id, &hello.cluster_id)
            && own != theirs
        {
            return Err(Refusal::OtherCluster { own: own.clone(), theirs: theirs.clone() });
        }
        match (&known.peers, &known.directories) {
            (Some(peers), Some(_)) if peers.contains(&caller) => {
                Ok(known.recognise(caller, hello.directory_id)?)
            }
            (Some(_), Some(_)) => Err(Refusal::UnknownPeer { caller }),
            _ => Err(Refusal::StillStarting),
        }
    }

    /// What is known, once the shards have said it; or after a moment.
    fn await_known(&self) -> MutexGuard<'_, Known> {
        let is_starting = |known: &mut Known| known.peers.is_none() || known.directories.is_none();
        let waited = self.is_more_known.wait_timeout_while(self.known(), START_WAIT_MAX, is_starting);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Logs that a peer is reached, once for all shards.
    pub(crate) fn log_reached(&self, peer: &PeerAddress) {
        if self.is_news(peer.node, Said::Reached) {
            tracing::info!("reached node {} at {}:{}", peer.node, peer.host, peer.port);
        }
    }

    /// Logs why a peer is not reached, once for all shards and until it changes.
    pub(crate) fn log_failure(&self, peer: &PeerAddress, failure: &DialError) {
        let why = failure.to_string();
        if self.is_news(peer.node, Said::Failed(why.clone())) {
            tracing::warn!("cannot reach node {} at {}:{}: {why}", peer.node, peer.host, peer.port);
        }
    }

    fn is_news(&self, peer: NodeId, said: Said) -> bool {
        let mut known = self.known();
        if known.said.get(&peer) == Some(&said) {
            return false;
        }
        known.said.insert(peer, said);
        true
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn recognise(&self, node: NodeId, found: DirectoryId) -> Result<(), OtherDirectory> {
        match self.directories.as_ref().and_then(|directories| directories.get(&node)) {
            Some(registered) if *registered != found => {
                Err(OtherDirectory { node, found, registered: *registered })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { node: NodeId(1), incarnation: 7, directory_id: DirectoryId([1; 16]) };

    fn hello(caller: i32, callee: i32, cluster_id: Option<&str>) -> Hello {
        Hello {
            caller: NodeId(caller),
            callee: NodeId(callee),
            shard: ShardId(0),
            incarnation: 5,
            directory_id: DirectoryId([u8::try_from(caller).expect("small"); 16]),
            cluster_id: cluster_id.map(str::to_owned),
        }
    }

    #[test]
    fn only_known_peers_of_the_same_cluster_are_admitted() {
        let identity = Identity::new(OWN, None);
        assert_eq!(identity.admit(&hello(2, 1, None)), Err(Refusal::StillStarting));
        identity.set_peers([NodeId(2), NodeId(3)].into());
        assert_eq!(
            identity.admit(&hello(2, 1, None)),
            Err(Refusal::StillStarting),
            "it may have lost its disk"
        );
        identity.know_directories(Vec::new());
        assert_eq!(identity.admit(&hello(2, 1, None)), Ok(()));
        assert_eq!(identity.admit(&hello(2, 1, Some("a"))), Ok(()), "it knows no cluster yet");
        identity.set_cluster_id("a");
        assert_eq!(identity.admit(&hello(3, 1, None)), Ok(()), "the caller knows no cluster yet");
        assert_eq!(identity.admit(&hello(3, 1, Some("a"))), Ok(()));
        let other = Refusal::OtherCluster { own: "a".to_owned(), theirs: "b".to_owned() };
        assert_eq!(identity.admit(&hello(3, 1, Some("b"))), Err(other));
        assert_eq!(identity.admit(&hello(4, 1, None)), Err(Refusal::UnknownPeer { caller: NodeId(4) }));
        let wrong = Refusal::OtherNode { called: NodeId(3), own: NodeId(1) };
        assert_eq!(identity.admit(&hello(2, 3, None)), Err(wrong));
        assert_eq!(identity.admit(&hello(1, 2, None)), Err(Refusal::SameNode { own: NodeId(1) }));
        assert_eq!(identity.admit(&identity.hello(NodeId(2), ShardId(0))), Err(Refusal::Oneself));
    }

    #[test]
    fn a_node_without_its_data_is_not_recognised() {
        let identity = Identity::new(OWN, None);
        identity.set_peers([NodeId(2), NodeId(3)].into());
        let (own, other) = (hello(3, 1, None).directory_id, DirectoryId([9; 16]));
        assert!(matches!(identity.recognise_callee(NodeId(3), own), Err(DialError::Unreachable(_))));
        identity.know_directories(vec![(NodeId(3), Some(own))]);
        // What is said of others does not make it forgotten.
        identity.know_directories(vec![(NodeId(2), Some(hello(2, 1, None).directory_id))]);
        assert_eq!(identity.admit(&hello(3, 1, None)), Ok(()));
        assert!(identity.recognise_callee(NodeId(3), own).is_ok());
        let stranger = OtherDirectory { node: NodeId(3), found: other, registered: own };
        let calls = Hello { directory_id: other, ..hello(3, 1, None) };
        assert_eq!(identity.admit(&calls), Err(Refusal::OtherDirectory(stranger.clone())));
        let is_called = identity.recognise_callee(NodeId(3), other).expect_err("not recognised");
        assert_eq!(
            is_called.to_string(),
            "node 3 comes with another data directory (CQkJCQkJCQkJCQkJCQkJCQ) than it was registered with \
             (AwMDAwMDAwMDAwMDAwMDAw): restore that one, or give the node a new one with `chronik-server cluster replace-node`"
        );
        assert_eq!(Refusal::OtherDirectory(stranger).to_string(), is_called.to_string());
    }
}
