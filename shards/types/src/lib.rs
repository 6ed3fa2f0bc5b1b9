//! Identifiers, clock readings and limits that every Chronik crate shares.
//!
//! This crate knows nothing of Kafka's wire format, of Raft or of the machine.

pub mod base64;
pub mod clock;
pub mod hash;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod mutants;

pub use clock::Now;
pub use ids::*;
pub use layout::ShardLayout;
