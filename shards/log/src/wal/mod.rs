//! The write-ahead log: one per shard, shared by all Raft groups of the shard.
//!
//! A WAL is a row of files of [`WAL_FILE_BYTES`](types::limits::WAL_FILE_BYTES) each, numbered from
//! [`FILE_SEQUENCE_FIRST`]. Flushes follow one another in a file without gaps; where the next one does not
//! fit, or the shard chooses so, it goes to the start of the next file. One flush is in flight at a time.
//!
//! What the shard promises and recovery relies on:
//!
//! 1. The first file that a shard ever writes is [`FILE_SEQUENCE_FIRST`], the first flush
//!    [`FLUSH_SEQUENCE_FIRST`].
//! 2. Files are written in ascending order; a file never written stands behind all written ones. So an
//!    unused file that recovery reports is used before a new one is made.
//! 3. A file is recycled (renamed to a higher sequence number) only when [`FileLedger`] names it, thus oldest
//!    first and after a later flush is durable.
//! 4. All records of one Raft `Ready` stand in one flush.
//! 5. A snapshot that conflicts with the group's log is preceded by [`Record::Truncated`].

mod flush;
mod ledger;
mod record;
mod recovery;
mod replay;

pub use flush::{
    FLUSH_HEADER_BYTES, FLUSH_PAYLOAD_BYTES_MAX, FORMAT_VERSION, Flush, FlushBuilder, FlushView, flushes,
};
pub use ledger::{Blockers, FileLedger};
pub use record::{Record, RecordNote, RecordRef};
pub use recovery::{Recovered, RecoveredFile, Recovery, RecoveryError, WalFileContent, recover};
pub use replay::{Checkpoint, Entry, RecoveredGroup};

/// The sequence number of the first file of a new WAL.
pub const FILE_SEQUENCE_FIRST: u64 = 1;

/// The sequence number of the first flush of a new WAL.
pub const FLUSH_SEQUENCE_FIRST: u64 = 1;

/// The name of the WAL file with this sequence number: sixteen hexadecimal digits and `.wal`.
pub fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.wal")
}

/// The sequence number in a WAL file's name; `None` when the name is not one that [`file_name`] makes
/// for a number from [`FILE_SEQUENCE_FIRST`] on.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".wal")?;
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (sequence >= FILE_SEQUENCE_FIRST && file_name(sequence) == name).then_some(sequence)
}

#[cfg(test)]
mod tests;
