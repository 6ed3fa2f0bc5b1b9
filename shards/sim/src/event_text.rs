//! What the world says of events in its trace.

use shard::{DiskAnswer, Event, PeerMessage, ShardMessage};

use crate::node::Place;
use crate::world::World;

impl World {
    pub(crate) fn trace_event(&mut self, place: Place, event: &Event) {
        let now_us = self.now_us;
        match event {
            Event::Connected { connection, .. } => {
                self.trace.note(now_us, format_args!("{place}: connected {connection}"))
            }
            Event::Disconnected { connection } => {
                self.trace.note(now_us, format_args!("{place}: gone {connection}"))
            }
            Event::Frame { connection, frame } => {
                self.trace.note(now_us, format_args!("{place}: frame of {} from {connection}", frame.len()));
            }
            Event::ResponseSent { connection, bytes } => {
                self.trace.note(now_us, format_args!("{place}: sent {bytes} to {connection}"));
            }
            Event::FromShard { from, message } => {
                let kind = match message {
                    ShardMessage::Op { token, .. } => format!("op {token:?}"),
                    ShardMessage::OpDone { token, .. } => format!("op done {token:?}"),
                    ShardMessage::Image(image) => format!("image {}", image.epoch()),
                    ShardMessage::Leader(change) => format!("{change:?}"),
                    ShardMessage::Pulls(kinds) => format!("pulls {kinds:?}"),
                    ShardMessage::Alive(alive) => format!("alive {alive:?}"),
                    ShardMessage::Moved { group, decision } => format!("moved {group} as decided {decision}"),
                    ShardMessage::FromPeer { peer, message } => {
                        format!("{} of node {peer}", kind_of(message))
                    }
                };
                self.trace.note(now_us, format_args!("{place}: from {from}: {kind}"));
            }
            Event::WalFlushed { flush } => self.trace.note(now_us, format_args!("{place}: flushed {flush}")),
            Event::WalFileReady { file, result } => {
                self.trace.note(now_us, format_args!("{place}: WAL file {file} {result:?}"));
            }
            Event::Disk { token, result } => {
                let what = match result {
                    Ok(DiskAnswer::Done) => "done".to_owned(),
                    Ok(DiskAnswer::Bytes(bytes)) => format!("{} bytes", bytes.len()),
                    Ok(DiskAnswer::Indexes { offsets, times }) => {
                        format!("indexes {} {}", offsets.len(), times.len())
                    }
                    Ok(DiskAnswer::Space { usable_bytes, .. }) => format!("{usable_bytes} usable"),
                    Err(error) => format!("{error:?}"),
                };
                self.trace.note(now_us, format_args!("{place}: disk {} {what}", token.0));
            }
            Event::PeerConnected { peer } => {
                self.trace.note(now_us, format_args!("{place}: connected to node {peer}"));
            }
            Event::PeerDisconnected { peer, has_ended } => {
                let what = if *has_ended { "has ended" } else { "is cut off" };
                self.trace.note(now_us, format_args!("{place}: node {peer} {what}"));
            }
            Event::PeerJoined { peer } => {
                self.trace.note(now_us, format_args!("{place}: node {peer} has connected"));
            }
            Event::FromPeer { peer, frame } => {
                self.trace.note(now_us, format_args!("{place}: frame of {} from node {peer}", frame.len()));
            }
            Event::PeerSent { peer, bytes } => {
                self.trace.note(now_us, format_args!("{place}: sent {bytes} to node {peer}"));
            }
            Event::TurnEnded => self.trace.note(now_us, format_args!("{place}: turn")),
            Event::DeadlineReached => self.trace.note(now_us, format_args!("{place}: deadline")),
            Event::ShutdownRequested => self.trace.note(now_us, format_args!("{place}: shutdown")),
        }
    }
}

/// What a message between nodes is, in short.
fn kind_of(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Beat { .. } => "beat".to_owned(),
        PeerMessage::Raft { group, message } => format!(
            "{:?} of group {group} in term {} at {}/{} with {} entries",
            message.msg_type,
            message.term,
            message.log_term,
            message.index,
            message.entries.len()
        ),
        PeerMessage::Leaders(changes) => format!("{changes:?}"),
        PeerMessage::Propose { request, .. } => format!("proposal {request}"),
        PeerMessage::Proposed { request, outcome } => format!("outcome of proposal {request}: {outcome:?}"),
        PeerMessage::HandOver { group, to } => format!("group {group} is to be led by node {to}"),
        PeerMessage::AskQuorum { request } => format!("question {request} about the quorum"),
        PeerMessage::Quorum { request, outcome } => format!("quorum for {request}: {outcome:?}"),
        PeerMessage::Pull { group, offset, .. } => format!("pull of group {group} from {offset}"),
        PeerMessage::Pulled { group, offset, .. } => format!("batches of group {group} from {offset}"),
    }
}
