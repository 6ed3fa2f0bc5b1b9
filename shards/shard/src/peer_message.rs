//! What nodes tell one another, and its bytes in a frame.
//!
//! Each message begins with its kind. Integers are little-endian.
//!
//! | kind | fields |
//! |--|--|
//! | 1 beat | whether the sender hears the receiver u8 |
//! | 2 raft | group u64, a Raft message |
//! | 3 leaders | count u32; each: group u64, term u64, leads u8, in-sync replicas: count u8, node u32 each |
//! | 4 propose | request u64, command |
//! | 5 proposed | request u64, taken u8, then index u64 and term u64, or an error code u32 |
//! | 6 pull | group u64, offset u64, bytes u32 |
//! | 7 pulled | group u64, offset u64, batches |
//! | 8 hand over | group u64, node u32 |
//! | 9 ask quorum | request u64 |
//! | 10 quorum | request u64, told u8, then leader u32, term u64, committed u64, voters and observers, or an error code u32 |
//!
//! Voters and observers: count u32, each: node u32, last u64, heard and caught up in milliseconds u64, 0 where it is not known.

use broker::{Quorum, QuorumReplica};
use bytes::Bytes;
use protocol::messages::ErrorCode;
use raft_group::{FrameError, FrameReader, FrameWriter, Message, read_message, write_message};
use types::{GroupId, LogIndex, NodeId, Offset, Term};

use crate::event::LeaderChange;

const BEAT: u8 = 1;
const RAFT: u8 = 2;
const LEADERS: u8 = 3;
const PROPOSE: u8 = 4;
const PROPOSED: u8 = 5;
const PULL: u8 = 6;
const PULLED: u8 = 7;
const HAND_OVER: u8 = 8;
const ASK_QUORUM: u8 = 9;
const QUORUM: u8 = 10;

/// The least that one leader takes in [`PeerMessage::Leaders`].
const LEADER_BYTES_MIN: usize = 8 + 8 + 1 + 1;

/// What one replica takes in [`PeerMessage::Quorum`].
const QUORUM_REPLICA_BYTES: usize = 4 + 8 + 8 + 8;

/// One message between two nodes.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// The sender is alive.
    Beat {
        /// Whether it has heard the receiver lately: a way that is open in one direction only is no way.
        hears_you: bool,
    },
    /// A message of a group's Raft.
    Raft {
        /// The group.
        group: GroupId,
        /// The message.
        message: Message,
    },
    /// Groups that the sender has begun or ceased to lead, from one metadata shard to another.
    Leaders(Vec<LeaderChange>),
    /// Propose this to the metadata group, which the receiver leads.
    Propose {
        /// Names the request in the answer.
        request: u64,
        /// An encoded [`metadata::Command`].
        command: Bytes,
    },
    /// What came of a proposal: where it stands in the log if it commits, or why it was not taken. It comes before
    /// the entry itself.
    Proposed {
        /// The request.
        request: u64,
        /// The entry's index and term.
        outcome: Result<(LogIndex, Term), ErrorCode>,
    },
    /// Send committed batches of a partition, for a replica that is behind the leader's log.
    Pull {
        /// The partition's group.
        group: GroupId,
        /// The first offset that is missing.
        offset: Offset,
        /// About how many bytes.
        bytes: u32,
    },
    /// The answer to [`PeerMessage::Pull`].
    Pulled {
        /// The partition's group.
        group: GroupId,
        /// The offset asked for.
        offset: Offset,
        /// Whole batches from there on; empty when the sender has none.
        batches: Vec<Bytes>,
    },
    /// Hand the leadership of a group that the receiver leads over to another replica.
    HandOver {
        /// The group.
        group: GroupId,
        /// Who is to lead it.
        to: NodeId,
    },
    /// How is the metadata group, which the receiver leads?
    AskQuorum {
        /// Names the request in the answer.
        request: u64,
    },
    /// The answer to [`PeerMessage::AskQuorum`].
    Quorum {
        /// The request.
        request: u64,
        /// The group, or why the sender cannot tell.
        outcome: Result<Quorum, ErrorCode>,
    },
}

impl PeerMessage {
    /// The group that the message is about; `None` for those between nodes and for those of metadata shards.
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            PeerMessage::Raft { group, .. }
            | PeerMessage::HandOver { group, .. }
            | PeerMessage::Pull { group, .. }
            | PeerMessage::Pulled { group, .. } => Some(*group),
            PeerMessage::Leaders(_)
            | PeerMessage::Propose { .. }
            | PeerMessage::Proposed { .. }
            | PeerMessage::AskQuorum { .. }
            | PeerMessage::Quorum { .. } => Some(GroupId::METADATA),
            PeerMessage::Beat { .. } => None,
        }
    }

    /// Appends the message to a frame.
    pub(crate) fn write(&self, frame: &mut FrameWriter) {
        match self {
            PeerMessage::Beat { hears_you } => {
                frame.put_u8(BEAT);
                frame.put_u8(u8::from(*hears_you));
            }
            PeerMessage::Raft { group, message } => {
                frame.put_u8(RAFT);
                frame.put_u64(group.0);
                write_message(message, frame);
            }
            PeerMessage::Leaders(changes) => {
                frame.put_u8(LEADERS);
                frame.put_u32(u32::try_from(changes.len()).expect("groups are bounded far below 2^32"));
                for change in changes {
                    write_leader(change, frame);
                }
            }
            PeerMessage::Propose { request, command } => {
                frame.put_u8(PROPOSE);
                frame.put_u64(*request);
                frame.put_bytes(command);
            }
            PeerMessage::Proposed { request, outcome } => {
                frame.put_u8(PROPOSED);
                frame.put_u64(*request);
                frame.put_u8(u8::from(outcome.is_ok()));
                match outcome {
                    Ok((index, term)) => {
                        frame.put_u64(index.0);
                        frame.put_u64(term.0);
                    }
                    Err(error) => write_error(*error, frame),
                }
            }
            PeerMessage::Pull { group, offset, bytes } => {
                frame.put_u8(PULL);
                frame.put_u64(group.0);
                frame.put_u64(offset.0.cast_unsigned());
                frame.put_u32(*bytes);
            }
            PeerMessage::Pulled { group, offset, batches } => {
                frame.put_u8(PULLED);
                frame.put_u64(group.0);
                frame.put_u64(offset.0.cast_unsigned());
                frame.put_parts(batches);
            }
            PeerMessage::HandOver { group, to } => {
                frame.put_u8(HAND_OVER);
                frame.put_u64(group.0);
                frame.put_u32(to.0.cast_unsigned());
            }
            PeerMessage::AskQuorum { request } => {
                frame.put_u8(ASK_QUORUM);
                frame.put_u64(*request);
            }
            PeerMessage::Quorum { request, outcome } => {
                frame.put_u8(QUORUM);
                frame.put_u64(*request);
                frame.put_u8(u8::from(outcome.is_ok()));
                match outcome {
                    Ok(quorum) => write_quorum(quorum, frame),
                    Err(error) => write_error(*error, frame),
                }
            }
        }
    }

    /// Reads the next message of a frame that `peer` sent.
    ///
    /// # Errors
    ///
    /// Where the bytes are no message of this release.
    pub(crate) fn read(peer: NodeId, frame: &mut FrameReader) -> Result<PeerMessage, FrameError> {
        Ok(match frame.u8()? {
            BEAT => PeerMessage::Beat { hears_you: frame.bool("beat")? },
            RAFT => PeerMessage::Raft { group: GroupId(frame.u64()?), message: read_message(frame)? },
            LEADERS => PeerMessage::Leaders(read_leaders(peer, frame)?),
            PROPOSE => PeerMessage::Propose { request: frame.u64()?, command: frame.bytes()? },
            PROPOSED => PeerMessage::Proposed { request: frame.u64()?, outcome: read_outcome(frame)? },
            PULL => {
                let group = GroupId(frame.u64()?);
                PeerMessage::Pull { group, offset: read_offset(frame)?, bytes: frame.u32()? }
            }
            PULLED => {
                let group = GroupId(frame.u64()?);
                let offset = read_offset(frame)?;
                let batches = Some(frame.bytes()?).filter(|batches| !batches.is_empty());
                PeerMessage::Pulled { group, offset, batches: batches.into_iter().collect() }
            }
            HAND_OVER => PeerMessage::HandOver { group: GroupId(frame.u64()?), to: read_node(frame)? },
            ASK_QUORUM => PeerMessage::AskQuorum { request: frame.u64()? },
            QUORUM => {
                let request = frame.u64()?;
                let outcome = match frame.bool("told")? {
                    true => Ok(read_quorum(frame)?),
                    false => Err(read_error(frame)?),
                };
                PeerMessage::Quorum { request, outcome }
            }
            _ => return Err(FrameError::Field("kind of message")),
        })
    }
}

fn write_leader(change: &LeaderChange, frame: &mut FrameWriter) {
    frame.put_u64(change.group.0);
    frame.put_u64(change.term.0);
    frame.put_u8(u8::from(change.leader.is_some()));
    frame.put_u8(u8::try_from(change.in_sync.len()).expect("a partition has few replicas"));
    for node in change.in_sync.iter() {
        frame.put_u32(node.0.cast_unsigned());
    }
}

/// A node speaks of groups that it leads itself, so the leader is not in the message.
fn read_leaders(peer: NodeId, frame: &mut FrameReader) -> Result<Vec<LeaderChange>, FrameError> {
    let count = frame.u32()? as usize;
    if count > frame.left_bytes() / LEADER_BYTES_MIN {
        return Err(FrameError::Short);
    }
    let mut changes = Vec::with_capacity(count);
    for _ in 0..count {
        let (group, term) = (GroupId(frame.u64()?), Term(frame.u64()?));
        let leader = frame.bool("leads")?.then_some(peer);
        let replicas = frame.u8()?;
        let in_sync = (0..replicas).map(|_| read_node(frame)).collect::<Result<Vec<_>, _>>()?;
        changes.push(LeaderChange { group, term, leader, in_sync: in_sync.into() });
    }
    Ok(changes)
}

fn read_node(frame: &mut FrameReader) -> Result<NodeId, FrameError> {
    i32::try_from(frame.u32()?).map(NodeId).map_err(|_| FrameError::Field("node"))
}

fn read_offset(frame: &mut FrameReader) -> Result<Offset, FrameError> {
    i64::try_from(frame.u64()?).map(Offset).map_err(|_| FrameError::Field("offset"))
}

fn read_outcome(frame: &mut FrameReader) -> Result<Result<(LogIndex, Term), ErrorCode>, FrameError> {
    if frame.bool("taken")? {
        return Ok(Ok((LogIndex(frame.u64()?), Term(frame.u64()?))));
    }
    Ok(Err(read_error(frame)?))
}

fn write_error(error: ErrorCode, frame: &mut FrameWriter) {
    frame.put_u32(i32::from(error.code()).cast_unsigned());
}

fn read_error(frame: &mut FrameReader) -> Result<ErrorCode, FrameError> {
    let code = i16::try_from(frame.u32()?.cast_signed()).map_err(|_| FrameError::Field("error code"))?;
    Ok(ErrorCode::from(code))
}

fn write_quorum(quorum: &Quorum, frame: &mut FrameWriter) {
    frame.put_u32(quorum.leader.0.cast_unsigned());
    frame.put_u64(quorum.term.0);
    frame.put_u64(quorum.committed.0);
    for replicas in [&quorum.voters, &quorum.observers] {
        frame.put_u32(u32::try_from(replicas.len()).expect("a cluster has few nodes"));
        for replica in replicas {
            frame.put_u32(replica.node.0.cast_unsigned());
            frame.put_u64(replica.last.0);
            frame.put_u64(replica.heard_ms.unwrap_or(0).cast_unsigned());
            frame.put_u64(replica.caught_up_ms.unwrap_or(0).cast_unsigned());
        }
    }
}

fn read_quorum(frame: &mut FrameReader) -> Result<Quorum, FrameError> {
    let (leader, term, committed) = (read_node(frame)?, Term(frame.u64()?), LogIndex(frame.u64()?));
    let mut replicas = || {
        let count = frame.u32()? as usize;
        if count > frame.left_bytes() / QUORUM_REPLICA_BYTES {
            return Err(FrameError::Short);
        }
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            let (node, last) = (read_node(frame)?, LogIndex(frame.u64()?));
            let mut time = || Ok(Some(frame.u64()?.cast_signed()).filter(|ms| *ms != 0));
            replicas.push(QuorumReplica { node, last, heard_ms: time()?, caught_up_ms: time()? });
        }
        Ok(replicas)
    };
    Ok(Quorum { leader, term, committed, voters: replicas()?, observers: replicas()? })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn messages_arrive_as_sent() {
        let in_sync: std::sync::Arc<[NodeId]> = [NodeId(1), NodeId(3)].into();
        let (group, term, offset) = (GroupId(7), Term(9), Offset(1 << 40));
        let leads = LeaderChange { group, term, leader: Some(NodeId(3)), in_sync };
        let resigned = LeaderChange { leader: None, in_sync: std::sync::Arc::default(), ..leads.clone() };
        let batches = Bytes::from(vec![5; 2_000]);
        let replica =
            QuorumReplica { node: NodeId(1), last: LogIndex(7), heard_ms: Some(9), caught_up_ms: None };
        let voters = vec![replica, QuorumReplica { node: NodeId(4), ..replica }];
        let (leader, committed) = (NodeId(1), LogIndex(6));
        let quorum = Quorum { leader, term, committed, voters, observers: Vec::new() };
        let messages = [
            PeerMessage::Beat { hears_you: true },
            PeerMessage::Raft { group, message: Message { to: 1, from: 4, ..append() } },
            PeerMessage::Leaders(vec![leads, resigned]),
            PeerMessage::Propose { request: 3, command: Bytes::from_static(b"command") },
            PeerMessage::Proposed { request: 3, outcome: Ok((LogIndex(8), term)) },
            PeerMessage::Proposed { request: 4, outcome: Err(ErrorCode::NotController) },
            PeerMessage::Pull { group, offset, bytes: 1 << 20 },
            PeerMessage::Pulled { group, offset, batches: vec![batches] },
            PeerMessage::Pulled { group, offset, batches: Vec::new() },
            PeerMessage::HandOver { group, to: NodeId(2) },
            PeerMessage::AskQuorum { request: 5 },
            PeerMessage::Quorum { request: 5, outcome: Err(ErrorCode::NotLeaderOrFollower) },
            PeerMessage::Quorum { request: 6, outcome: Ok(quorum) },
        ];
        let mut frame = FrameWriter::default();
        messages.iter().for_each(|message| message.write(&mut frame));
        let mut body = BytesMut::new();
        frame.finish().iter().for_each(|part| body.extend_from_slice(part));
        let body = body.freeze();
        let mut reader = FrameReader::new(body.clone());
        for message in messages {
            assert_eq!(PeerMessage::read(NodeId(3), &mut reader), Ok(message));
        }
        assert_eq!(reader.left_bytes(), 0);
        for cut in 0..body.len() {
            let mut reader = FrameReader::new(body.slice(..cut));
            while reader.left_bytes() > 0 && PeerMessage::read(NodeId(3), &mut reader).is_ok() {}
        }
    }

    fn append() -> Message {
        Message { msg_type: raft_group::MessageType::MsgAppend, ..Message::default() }
    }
}
