//! One Raft group: messages and proposals in, work to persist, send and apply out.
//!
//! Only this crate names raft-rs. An entry's payload is a reference-counted [`bytes::Bytes`], so neither
//! the log view nor raft-rs copies it.

mod frame;
mod group;
mod log_view;
mod membership;
mod message;

pub use frame::{FrameError, FrameReader, FrameWriter};
pub use group::{Follower, Group, InstalledSnapshot, ProposeError, Role, Work};
pub use log_view::LogView;
pub use membership::{
    Membership, NoMembership, changes_membership, is_being_removed, read_checkpoint, removal_record,
};
pub use message::{read_message, write_message};
pub use raft::eraftpb::{Entry, EntryType, Message, MessageType};
