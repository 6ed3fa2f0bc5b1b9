//! The memory of one shard for what clients read: shared by all its connections, in the order in which they ask.

use std::collections::{BTreeMap, VecDeque};

use types::limits::{FETCH_SHARE_BYTES_MIN, RESPONSE_BYTES_PER_SHARD_MAX};

/// What responses take and what fetches under way may bring, and the requests that wait for room.
#[derive(Debug, Default)]
pub(crate) struct ResponseMemory {
    used_bytes: usize,
    /// By request: the operations that are not answered yet, and what all of them may bring. A request that is gone
    /// keeps its share until its last answer is there.
    shares: BTreeMap<u64, Share>,
    /// One fetch of a connection is read at a time, so there are no more than connections.
    waiting: VecDeque<u64>,
}

#[derive(Debug)]
struct Share {
    parts: usize,
    bytes: usize,
}

impl ResponseMemory {
    /// How much a fetch may bring now that wants so much, or [`FETCH_SHARE_BYTES_MIN`] if that is more: its first batch
    /// may be larger than what it asks for. `None` when it has to wait.
    pub(crate) fn grant(&self, wanted_bytes: usize) -> Option<usize> {
        let free_bytes = RESPONSE_BYTES_PER_SHARD_MAX.saturating_sub(self.used_bytes);
        let granted_bytes = wanted_bytes.max(FETCH_SHARE_BYTES_MIN).min(free_bytes);
        (granted_bytes >= FETCH_SHARE_BYTES_MIN).then_some(granted_bytes)
    }

    /// A request asks owners for so much, all together.
    pub(crate) fn reserve(&mut self, request: u64, parts: usize, bytes: usize) {
        let before = self.shares.insert(request, Share { parts, bytes });
        assert!(before.is_none(), "a request asks again only when it is answered");
        self.used_bytes += bytes;
    }

    /// One of the request's operations was answered; after the last one its share is free.
    pub(crate) fn on_answered(&mut self, request: u64) {
        let Some(share) = self.shares.get_mut(&request) else { return };
        share.parts -= 1;
        if share.parts == 0 {
            self.used_bytes -= share.bytes;
            self.shares.remove(&request);
        }
    }

    /// A response waits to be sent.
    pub(crate) fn on_response(&mut self, bytes: usize) {
        self.used_bytes += bytes;
    }

    /// Response bytes were sent, or dropped with their connection.
    pub(crate) fn on_gone(&mut self, bytes: usize) {
        self.used_bytes -= bytes;
    }

    /// The request waits for memory behind those that do already.
    pub(crate) fn wait(&mut self, request: u64) {
        self.waiting.push_back(request);
    }

    /// The request is gone while it waited.
    pub(crate) fn forget(&mut self, request: u64) {
        self.waiting.retain(|waiting| *waiting != request);
    }

    /// The request that has waited longest, if there is room for it.
    pub(crate) fn next_ready(&mut self) -> Option<u64> {
        self.grant(FETCH_SHARE_BYTES_MIN)?;
        self.waiting.pop_front()
    }

    /// Whether requests wait.
    pub(crate) fn is_short(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// All that wait, which are not to wait any longer.
    pub(crate) fn take_waiting(&mut self) -> VecDeque<u64> {
        std::mem::take(&mut self.waiting)
    }
}
