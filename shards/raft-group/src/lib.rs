//! One Raft group: messages and proposals in, work to persist, send and apply out.
//!
//! Only this crate names raft-rs. An entry's payload is a reference-counted [`bytes::Bytes`], so neither
//! the log view nor raft-rs copies it.

mod group;
mod log_view;

pub use group::{Group, GroupOptions, ProposeError, Role, Work};
pub use log_view::LogView;
pub use raft::eraftpb::{Entry, EntryType, Message};
