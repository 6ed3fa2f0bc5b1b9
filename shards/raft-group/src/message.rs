//! Raft messages as they travel between nodes.
//!
//! | field | bytes |
//! |--|--|
//! | kind | 1, the number of raft-rs's `MessageType` |
//! | flags | 1: bit 0 reject, bit 1 a snapshot follows |
//! | to, from, term, log term, index, commit, commit term, reject hint | 8 each |
//! | context | 4 + its length |
//! | entries | 4 for their count; each: type 1, term 8, index 8, context 4 + n, data 4 + n |
//! | snapshot | index 8, term 8, members as of then: three times count 4 and 8 each; data 4 + n |

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

use crate::frame::{FrameError, FrameReader, FrameWriter};
use crate::membership::Membership;

const FLAG_REJECT: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// The least that an entry takes, by which a claimed count of them is judged.
const ENTRY_BYTES_MIN: usize = 1 + 8 + 8 + 4 + 4;

/// The kinds that one node may send to another; all others are for a node's own use.
const KINDS: [MessageType; 10] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// Appends a message to a frame; the payloads of its entries are not copied where they are large.
pub fn write_message(message: &Message, frame: &mut FrameWriter) {
    assert!(KINDS.contains(&message.msg_type), "only messages between nodes are sent");
    frame.put_u8(message.msg_type as u8);
    let snapshot = message.snapshot.as_ref().filter(|_| message.msg_type == MessageType::MsgSnapshot);
    let flags = u8::from(message.reject) * FLAG_REJECT + u8::from(snapshot.is_some()) * FLAG_SNAPSHOT;
    frame.put_u8(flags);
    for field in [
        message.to,
        message.from,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ] {
        frame.put_u64(field);
    }
    frame.put_bytes(&message.context);
    frame.put_u32(u32::try_from(message.entries.len()).expect("a message has few entries"));
    for entry in message.entries.iter() {
        frame.put_u8(entry.entry_type as u8);
        frame.put_u64(entry.term);
        frame.put_u64(entry.index);
        frame.put_bytes(&entry.context);
        frame.put_bytes(&entry.data);
    }
    if let Some(snapshot) = snapshot {
        frame.put_u64(snapshot.get_metadata().index);
        frame.put_u64(snapshot.get_metadata().term);
        Membership::of_conf_state(snapshot.get_metadata().get_conf_state()).write(frame);
        frame.put_bytes(&snapshot.data);
    }
}

/// Reads what [`write_message`] wrote. Payloads share the frame's allocation.
///
/// # Errors
///
/// Where the bytes are not such a message; nothing is reserved that the frame could not hold.
pub fn read_message(frame: &mut FrameReader) -> Result<Message, FrameError> {
    let kind = frame.u8()?;
    let kind = KINDS.into_iter().find(|known| *known as u8 == kind).ok_or(FrameError::Field("kind"))?;
    let flags = frame.u8()?;
    if flags & !(FLAG_REJECT | FLAG_SNAPSHOT) != 0 {
        return Err(FrameError::Field("flags"));
    }
    let mut message = Message { msg_type: kind, reject: flags & FLAG_REJECT != 0, ..Message::default() };
    for field in [
        &mut message.to,
        &mut message.from,
        &mut message.term,
        &mut message.log_term,
        &mut message.index,
        &mut message.commit,
        &mut message.commit_term,
        &mut message.reject_hint,
    ] {
        *field = frame.u64()?;
    }
    message.context = own_if_small(frame.bytes()?);
    let count = frame.u32()? as usize;
    if count > frame.left_bytes() / ENTRY_BYTES_MIN {
        return Err(FrameError::Short);
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(read_entry(frame)?);
    }
    message.entries = entries.into();
    let has_snapshot = flags & FLAG_SNAPSHOT != 0;
    if has_snapshot != (kind == MessageType::MsgSnapshot) {
        return Err(FrameError::Field("flags"));
    }
    if has_snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = frame.u64()?;
        snapshot.mut_metadata().term = frame.u64()?;
        snapshot.mut_metadata().set_conf_state(Membership::read(frame)?.conf_state());
        snapshot.data = frame.bytes()?;
        message.set_snapshot(snapshot);
    }
    Ok(message)
}

fn read_entry(frame: &mut FrameReader) -> Result<Entry, FrameError> {
    let entry_type = match frame.u8()? {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return Err(FrameError::Field("entry type")),
    };
    Ok(Entry {
        entry_type,
        term: frame.u64()?,
        index: frame.u64()?,
        context: own_if_small(frame.bytes()?),
        data: frame.bytes()?,
        ..Entry::default()
    })
}

/// A descriptor of a few bytes does not keep its frame in memory.
fn own_if_small(bytes: Bytes) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(&bytes) }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use types::ReplicaId;

    use super::*;

    fn body(frame: FrameWriter) -> Bytes {
        let mut body = BytesMut::new();
        for part in frame.finish() {
            body.extend_from_slice(&part);
        }
        body.freeze()
    }

    fn any_payload() -> impl Strategy<Value = Bytes> {
        prop_oneof![Just(0usize), 1..40usize, 500..2_000usize]
            .prop_flat_map(|length| prop::collection::vec(any::<u8>(), length))
            .prop_map(Bytes::from)
    }

    fn any_entry() -> impl Strategy<Value = Entry> {
        (0..3u8, any::<u64>(), any::<u64>(), any_payload(), any_payload()).prop_map(
            |(kind, term, index, context, data)| Entry {
                entry_type: [
                    EntryType::EntryNormal,
                    EntryType::EntryConfChange,
                    EntryType::EntryConfChangeV2,
                ][usize::from(kind)],
                term,
                index,
                context,
                data,
                ..Entry::default()
            },
        )
    }

    prop_compose! {
        fn any_message()(
            kind in 0..KINDS.len(),
            fields in prop::array::uniform8(any::<u64>()),
            reject in any::<bool>(),
            context in any_payload(),
            entries in prop::collection::vec(any_entry(), 0..4),
            snapshot in (any::<u64>(), any::<u64>(), any_payload()),
        ) -> Message {
            let [to, from, term, log_term, index, commit, commit_term, reject_hint] = fields;
            let mut message = Message {
                msg_type: KINDS[kind],
                to, from, term, log_term, index, commit, commit_term, reject_hint, reject, context,
                entries: entries.into(),
                ..Message::default()
            };
            if message.msg_type == MessageType::MsgSnapshot {
                message.mut_snapshot().mut_metadata().index = snapshot.0;
                message.mut_snapshot().mut_metadata().term = snapshot.1;
                message.mut_snapshot().data = snapshot.2;
                let voters = (1..=index % 4).map(|id| ReplicaId::from_raft_id(id).expect("an id"));
                let membership = Membership::of_voters(voters.collect());
                message.mut_snapshot().mut_metadata().set_conf_state(membership.conf_state());
            }
            message
        }
    }

    proptest! {
        #[test]
        fn messages_arrive_as_sent(messages in prop::collection::vec(any_message(), 1..4)) {
            let mut frame = FrameWriter::default();
            messages.iter().for_each(|message| write_message(message, &mut frame));
            let bytes = frame.len_bytes();
            let body = body(frame);
            prop_assert_eq!(body.len(), bytes);
            let mut reader = FrameReader::new(body);
            for message in messages {
                prop_assert_eq!(read_message(&mut reader), Ok(message));
            }
            prop_assert_eq!(reader.left_bytes(), 0);
        }

        #[test]
        fn damaged_messages_are_an_error_or_another_message(
            message in any_message(),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut frame = FrameWriter::default();
            write_message(&message, &mut frame);
            let body = body(frame);
            let mut damaged = body.to_vec();
            damaged[at.index(body.len())] ^= 1 << bit;
            let _ = read_message(&mut FrameReader::new(damaged.into()));
            prop_assert!(read_message(&mut FrameReader::new(body.slice(..cut.index(body.len())))).is_err());
        }
    }

    #[test]
    fn messages_that_a_node_sends_to_itself_are_refused() {
        for kind in 0..=u8::MAX {
            let mut bytes = vec![0; 200];
            bytes[0] = kind;
            let known = KINDS.iter().any(|known| *known as u8 == kind && *known != MessageType::MsgSnapshot);
            assert_eq!(read_message(&mut FrameReader::new(bytes.into())).is_ok(), known, "kind {kind}");
        }
    }
}
