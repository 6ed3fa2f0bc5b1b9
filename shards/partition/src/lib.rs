//! What Kafka says a partition is, over one Raft group: offsets, producers' sequences, leader epochs,
//! watermarks, and where each batch can be read.
//!
//! Nothing here does I/O. [`Partition::plan_append`] decides about a batch before it is proposed;
//! [`Partition::apply`] takes committed entries and is the only thing that changes durable state.

mod checkpoint;
mod command;
mod epochs;
mod indexes;
mod partition;
mod producers;
mod read;
mod retired;
mod tail;

pub use checkpoint::{CheckpointError, snapshot_range};
pub use command::{Command, CommandError};
pub use epochs::LeaderEpochs;
pub use indexes::{IndexRestore, SegmentDamaged};
pub use partition::{AppendError, AppendPlan, AppendRules, Applied, FlushPlan, NextFlush, Partition};
pub use producers::{ProducerBatch, ProducerState, SequenceError};
pub use read::{Position, ReadError, SegmentPosition, TimestampPosition};
