//! Commands that use a running broker as its clients do, and one that reads its files.

mod assignment;
mod cluster;
pub mod connection;
pub mod consume;
pub mod dump;
mod group;
pub mod inspect;
pub mod membership;
mod moves;
pub mod output;
mod partitioner;
pub mod produce;
pub mod topic;
