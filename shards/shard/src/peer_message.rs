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

/// The least that one leader takes in [`PeerMessage::Leaders`].
const LEADER_BYTES_MIN: usize = 8 + 8 + 1 + 1;

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
}

impl PeerMessage {
    /// The group that the message is about; `None` for those between nodes and for those of metadata shards.
    pub(crate) fn group(&self) -> Option<GroupId> {
        match self {
            PeerMessage::Raft { group, .. }
            | PeerMessage::HandOver { group, .. }
            | PeerMessage::Pull { group, .. }
            | PeerMessage::Pulled { group, .. } => Some(*group),
            PeerMessage::Leaders(_) | PeerMessage::Propose { .. } | PeerMessage::Proposed { .. } => {
                Some(GroupId::METADATA)
            }
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
                    Err(error) => frame.put_u32(i32::from(error.code()).cast_unsigned()),
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
    let code = i16::try_from(frame.u32()?.cast_signed()).map_err(|_| FrameError::Field("error code"))?;
    Ok(Err(ErrorCode::from(code)))
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
