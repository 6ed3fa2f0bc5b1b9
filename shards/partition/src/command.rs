//! What an entry of a partition's group means, written in the entry's context.

use bytes::{BufMut, Bytes, BytesMut};
use types::Offset;

const BATCH: u8 = 1;
const LOG_START: u8 = 2;
const MEMBERSHIP: u8 = 0xff;

/// The kind of a committed entry. An empty context is Raft's own entry at the start of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The first entry of a term, made by Raft.
    TermStart,
    /// The entry's data is one record batch, with its offsets and leader epoch in place.
    Batch,
    /// The log now starts at this offset: retention or DeleteRecords.
    LogStart(Offset),
    /// The members of the group change, or have changed, as this decision of the metadata wants
    /// (`metadata::Partition::decision`).
    Membership {
        /// Its number.
        decision: u32,
    },
}

/// A context that no version of this software wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of a partition has an unknown context {0:02x?}")]
pub struct CommandError(Vec<u8>);

impl Command {
    /// The context of an entry that means this.
    pub fn encode(self) -> Bytes {
        match self {
            Command::TermStart => Bytes::new(),
            Command::Batch => Bytes::from_static(&[BATCH]),
            Command::Membership { decision } => {
                let mut context = BytesMut::with_capacity(5);
                context.put_u8(MEMBERSHIP);
                context.put_u32(decision);
                context.freeze()
            }
            Command::LogStart(offset) => {
                let mut context = BytesMut::with_capacity(9);
                context.put_u8(LOG_START);
                context.put_i64(offset.0);
                context.freeze()
            }
        }
    }

    /// The meaning of an entry with this context.
    pub fn decode(context: &[u8]) -> Result<Command, CommandError> {
        match context {
            [] => Ok(Command::TermStart),
            [BATCH] => Ok(Command::Batch),
            [MEMBERSHIP, decision @ ..] => match <[u8; 4]>::try_from(decision) {
                Ok(decision) => Ok(Command::Membership { decision: u32::from_be_bytes(decision) }),
                Err(_) => Err(CommandError(context.to_vec())),
            },
            [LOG_START, offset @ ..] => match <[u8; 8]>::try_from(offset) {
                Ok(offset) => Ok(Command::LogStart(Offset(i64::from_be_bytes(offset)))),
                Err(_) => Err(CommandError(context.to_vec())),
            },
            _ => Err(CommandError(context.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_survive_their_context() {
        let membership = Command::Membership { decision: 1 << 20 };
        for command in [Command::TermStart, Command::Batch, membership, Command::LogStart(Offset(1 << 40))] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        for unknown in [&[9u8][..], &[LOG_START, 0, 0], &[BATCH, 0], &[MEMBERSHIP, 0, 0, 1]] {
            assert!(Command::decode(unknown).is_err(), "{unknown:?}");
        }
    }
}
