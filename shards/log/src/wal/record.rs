//! The records of the WAL and their bytes inside a flush.
//!
//! All integers are little-endian. A record begins with one byte that names its kind:
//!
//! | kind | fields |
//! |--|--|
//! | 1 entry | type u8, context bytes u32, data bytes u32, group u64, term u64, index u64, context, data |
//! | 2 hard state | group u64, term u64, vote u64, commit u64 |
//! | 3 checkpoint | state bytes u32, group u64, index u64, term u64, state |
//! | 4 group removed | group u64 |
//! | 5 truncated | group u64, from u64 |

use bytes::{BufMut, Bytes};
use types::{GroupId, LogIndex, Term};

pub(crate) const KIND_ENTRY: u8 = 1;
pub(crate) const KIND_HARD_STATE: u8 = 2;
pub(crate) const KIND_CHECKPOINT: u8 = 3;
pub(crate) const KIND_GROUP_REMOVED: u8 = 4;
pub(crate) const KIND_TRUNCATED: u8 = 5;

const ENTRY_HEAD_BYTES: usize = 1 + 1 + 4 + 4 + 3 * 8;
const HARD_STATE_BYTES: usize = 1 + 4 * 8;
const CHECKPOINT_HEAD_BYTES: usize = 1 + 4 + 3 * 8;
const GROUP_REMOVED_BYTES: usize = 1 + 8;
const TRUNCATED_BYTES: usize = 1 + 2 * 8;

/// The longest fixed part of any record.
pub(crate) const RECORD_HEAD_BYTES_MAX: usize = ENTRY_HEAD_BYTES;

/// One fact about one Raft group, as the WAL keeps it. `B` holds the variable parts: [`Bytes`] on the
/// way in, a borrowed slice ([`RecordRef`]) when a flush is read back, nothing in a [`RecordNote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<B = Bytes> {
    /// A Raft log entry. It replaces every earlier entry of the group at this index or above
    /// (Raft paper, section 5.3).
    Entry {
        /// The group whose log this is.
        group: GroupId,
        /// The term in which a leader created the entry.
        term: Term,
        /// The position in the group's log, at least 1.
        index: LogIndex,
        /// raft-rs's `EntryType` as a number; this crate does not interpret it.
        entry_type: u8,
        /// The entry's descriptor; opaque here.
        context: B,
        /// The entry's payload; opaque here.
        data: B,
    },
    /// What Raft must not forget (Raft paper, figure 2). The latest one of a group counts.
    HardState {
        /// The group.
        group: GroupId,
        /// The latest term that this replica has seen.
        term: Term,
        /// The Raft id that got this replica's vote in `term`, or 0.
        vote: u64,
        /// The highest index known to be committed.
        commit: LogIndex,
    },
    /// Everything up to `index` is durable outside the WAL: the group's log starts at `index + 1`. Entries
    /// above `index` stay. An installed snapshot that conflicts with the log (Raft paper, figure 13)
    /// therefore takes two records in one flush: [`Record::Truncated`] at its index or below, then this.
    Checkpoint {
        /// The group.
        group: GroupId,
        /// The last index that the WAL no longer needs; 0 for a group without entries.
        index: LogIndex,
        /// The term of the entry at `index`. The log must not hold another term there.
        term: Term,
        /// What the owner needs to resume at `index`; opaque here.
        state: B,
    },
    /// Entries are gone without others in their place.
    Truncated {
        /// The group.
        group: GroupId,
        /// The first index that is gone, with all above it.
        from: LogIndex,
    },
    /// The replica left this node; nothing written before counts.
    GroupRemoved {
        /// The group.
        group: GroupId,
    },
}

/// A record that borrows its variable parts from the flush it stands in.
pub type RecordRef<'a> = Record<&'a [u8]>;

/// A record without its variable parts: what the [`FileLedger`](super::FileLedger) needs of it.
pub type RecordNote = Record<()>;

impl<B> Record<B> {
    /// The group that the record is about.
    pub fn group(&self) -> GroupId {
        match self {
            Record::Entry { group, .. }
            | Record::HardState { group, .. }
            | Record::Checkpoint { group, .. }
            | Record::Truncated { group, .. }
            | Record::GroupRemoved { group } => *group,
        }
    }

    /// The record without its variable parts.
    pub fn note(&self) -> RecordNote {
        match *self {
            Record::Entry { group, term, index, entry_type, .. } => {
                Record::Entry { group, term, index, entry_type, context: (), data: () }
            }
            Record::HardState { group, term, vote, commit } => {
                Record::HardState { group, term, vote, commit }
            }
            Record::Checkpoint { group, index, term, .. } => {
                Record::Checkpoint { group, index, term, state: () }
            }
            Record::Truncated { group, from } => Record::Truncated { group, from },
            Record::GroupRemoved { group } => Record::GroupRemoved { group },
        }
    }
}

impl<B: AsRef<[u8]>> Record<B> {
    /// The bytes that the record takes inside a flush.
    pub fn encoded_bytes(&self) -> usize {
        match self {
            Record::Entry { context, data, .. } => {
                ENTRY_HEAD_BYTES + context.as_ref().len() + data.as_ref().len()
            }
            Record::HardState { .. } => HARD_STATE_BYTES,
            Record::Checkpoint { state, .. } => CHECKPOINT_HEAD_BYTES + state.as_ref().len(),
            Record::Truncated { .. } => TRUNCATED_BYTES,
            Record::GroupRemoved { .. } => GROUP_REMOVED_BYTES,
        }
    }

    /// Appends the fixed part of the record, which its variable parts follow.
    pub(crate) fn put_head(&self, out: &mut impl BufMut) {
        match self {
            Record::Entry { group, term, index, entry_type, context, data } => {
                out.put_u8(KIND_ENTRY);
                out.put_u8(*entry_type);
                out.put_u32_le(part_bytes(context.as_ref()));
                out.put_u32_le(part_bytes(data.as_ref()));
                put_numbers(out, [group.0, term.0, index.0]);
            }
            Record::HardState { group, term, vote, commit } => {
                out.put_u8(KIND_HARD_STATE);
                put_numbers(out, [group.0, term.0, *vote, commit.0]);
            }
            Record::Checkpoint { group, index, term, state } => {
                out.put_u8(KIND_CHECKPOINT);
                out.put_u32_le(part_bytes(state.as_ref()));
                put_numbers(out, [group.0, index.0, term.0]);
            }
            Record::Truncated { group, from } => {
                out.put_u8(KIND_TRUNCATED);
                put_numbers(out, [group.0, from.0]);
            }
            Record::GroupRemoved { group } => {
                out.put_u8(KIND_GROUP_REMOVED);
                put_numbers(out, [group.0]);
            }
        }
    }
}

fn part_bytes(part: &[u8]) -> u32 {
    u32::try_from(part.len()).expect("a part of a record is smaller than a WAL file")
}

fn put_numbers<const N: usize>(out: &mut impl BufMut, numbers: [u64; N]) {
    numbers.into_iter().for_each(|number| out.put_u64_le(number));
}

impl<'a> Record<&'a [u8]> {
    /// Takes the first record off `input`; `None` when its bytes are not a record.
    pub(crate) fn decode(input: &mut &'a [u8]) -> Option<RecordRef<'a>> {
        let [kind] = take(input)?;
        match kind {
            KIND_ENTRY => {
                let [entry_type] = take(input)?;
                let context_bytes = take_length(input)?;
                let data_bytes = take_length(input)?;
                let group = GroupId(take_u64(input)?);
                let term = Term(take_u64(input)?);
                let index = LogIndex(take_u64(input)?);
                let context = take_slice(input, context_bytes)?;
                let data = take_slice(input, data_bytes)?;
                Some(Record::Entry { group, term, index, entry_type, context, data })
            }
            KIND_HARD_STATE => Some(Record::HardState {
                group: GroupId(take_u64(input)?),
                term: Term(take_u64(input)?),
                vote: take_u64(input)?,
                commit: LogIndex(take_u64(input)?),
            }),
            KIND_CHECKPOINT => {
                let state_bytes = take_length(input)?;
                Some(Record::Checkpoint {
                    group: GroupId(take_u64(input)?),
                    index: LogIndex(take_u64(input)?),
                    term: Term(take_u64(input)?),
                    state: take_slice(input, state_bytes)?,
                })
            }
            KIND_TRUNCATED => {
                Some(Record::Truncated { group: GroupId(take_u64(input)?), from: LogIndex(take_u64(input)?) })
            }
            KIND_GROUP_REMOVED => Some(Record::GroupRemoved { group: GroupId(take_u64(input)?) }),
            _ => None,
        }
    }

    /// The same record with parts of its own, copied out of the flush.
    pub fn to_owned(&self) -> Record {
        let own = Bytes::copy_from_slice;
        match *self {
            Record::Entry { group, term, index, entry_type, context, data } => {
                Record::Entry { group, term, index, entry_type, context: own(context), data: own(data) }
            }
            Record::HardState { group, term, vote, commit } => {
                Record::HardState { group, term, vote, commit }
            }
            Record::Checkpoint { group, index, term, state } => {
                Record::Checkpoint { group, index, term, state: own(state) }
            }
            Record::Truncated { group, from } => Record::Truncated { group, from },
            Record::GroupRemoved { group } => Record::GroupRemoved { group },
        }
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

fn take_u64(input: &mut &[u8]) -> Option<u64> {
    take(input).map(u64::from_le_bytes)
}

fn take_length(input: &mut &[u8]) -> Option<usize> {
    take(input).map(u32::from_le_bytes).and_then(|bytes| usize::try_from(bytes).ok())
}

fn take_slice<'a>(input: &mut &'a [u8], bytes: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(bytes)?;
    *input = tail;
    Some(head)
}
