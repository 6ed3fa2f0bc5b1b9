//! Load and latency harness for any broker that speaks the Kafka protocol.
//!
//! [`run::run`] is the whole of it: [`plan`] says what each run of a command is to do, [`admin`] finds or creates the
//! topics, [`producer`] and [`consumer`] put load on them from a few threads, [`floor`] measures in the same run what the
//! machine itself costs. The result is a [`report`], which [`table`], [`html`] and [`mod@compare`] show.
//!
//! Open load follows a [`schedule`] that is fixed before the run: a request that the client or the broker delays
//! still counts from the time it was due, so that a stall shows in every request that it held up.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod fetch;
pub mod floor;
pub mod frames;
pub mod histogram;
pub mod html;
pub mod keys;
pub mod plan;
pub mod plot;
pub mod process;
pub mod producer;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod sys;
pub mod table;
pub mod tally;
pub mod timeline;
pub mod workloads;

#[cfg(test)]
mod fake_broker;
