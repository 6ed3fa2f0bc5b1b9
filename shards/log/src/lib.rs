//! What Chronik writes to disk: the write-ahead log's frames and the decision where it ends, Kafka's segment
//! and index files, and the plans for rolling, reading and deleting them.
//!
//! This crate holds codecs and plans only. It never opens a file, reads a clock or starts a thread.

pub mod dump;
pub mod segment;
pub mod wal;
