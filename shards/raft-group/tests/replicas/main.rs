//! Groups of replicas, each with a WAL.

mod harness;
mod members;
mod unwritten;
