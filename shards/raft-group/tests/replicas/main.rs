//! Groups of replicas, each with a WAL.

mod elections;
mod harness;
mod members;
mod unwritten;
