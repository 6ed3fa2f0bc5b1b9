//! One client connection: requests in their order, responses in the same.

use std::collections::VecDeque;

use bytes::Bytes;
use types::limits::{REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX, RESPONSE_BYTES_QUEUED_PER_CONNECTION_MAX};

/// A connection of this shard. Requests run side by side; a response waits for those before it.
///
/// Owner: [`crate::Broker`], from the connection's first event to its last.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub client_host: String,
    slots: VecDeque<Slot>,
    unsent_bytes: usize,
    pub reading: bool,
    pub closing: bool,
}

#[derive(Debug)]
struct Slot {
    request: u64,
    is_fetch: bool,
    response: Option<Vec<Bytes>>,
}

impl Connection {
    pub fn new(client_host: String) -> Connection {
        Connection { client_host, reading: true, ..Connection::default() }
    }

    /// A request came in.
    pub fn begin(&mut self, request: u64, is_fetch: bool) {
        self.slots.push_back(Slot { request, is_fetch, response: None });
    }

    /// The request's response is known; empty where none is due.
    pub fn complete(&mut self, request: u64, parts: Vec<Bytes>) {
        let slot = self.slots.iter_mut().find(|slot| slot.request == request);
        let slot = slot.expect("a request keeps its slot until it is answered");
        assert!(slot.response.is_none(), "a request is answered once");
        slot.response = Some(parts);
    }

    /// The request will have no response.
    pub fn give_up(&mut self, request: u64) {
        self.slots.retain(|slot| slot.request != request);
    }

    /// The next response that may be sent.
    pub fn pop_sendable(&mut self) -> Option<Vec<Bytes>> {
        self.slots.front()?.response.as_ref()?;
        let parts = self.slots.pop_front()?.response?;
        self.unsent_bytes += parts.iter().map(Bytes::len).sum::<usize>();
        Some(parts)
    }

    /// The socket took bytes.
    pub fn on_sent(&mut self, bytes: usize) {
        assert!(bytes <= self.unsent_bytes, "no more is sent than was given");
        self.unsent_bytes -= bytes;
    }

    /// Response bytes that the socket has not taken.
    pub fn response_bytes(&self) -> usize {
        let held = self.slots.iter().filter_map(|slot| slot.response.as_ref()).flatten();
        self.unsent_bytes + held.map(Bytes::len).sum::<usize>()
    }

    /// The requests that have no response yet.
    pub fn unanswered(&self) -> impl Iterator<Item = u64> {
        self.slots.iter().filter(|slot| slot.response.is_none()).map(|slot| slot.request)
    }

    /// Whether the client has so much under way that its next request must wait.
    pub fn is_full(&self) -> bool {
        // A fetch may bring tens of megabytes, so one at a time is read for a client; consumers send no more.
        self.slots.iter().any(|slot| slot.is_fetch)
            || self.slots.len() >= REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX
            || self.unsent_bytes >= RESPONSE_BYTES_QUEUED_PER_CONNECTION_MAX
    }

    /// Whether all that was asked is answered, and the answers are handed to the socket. A client that does not read
    /// them holds nobody up.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_keep_the_order_of_requests() {
        let mut connection = Connection::new("/127.0.0.1".into());
        for request in 1..=3 {
            connection.begin(request, false);
        }
        connection.complete(2, vec![Bytes::from_static(b"two")]);
        assert_eq!(connection.pop_sendable(), None);
        connection.complete(1, vec![]);
        assert_eq!(connection.pop_sendable(), Some(vec![]));
        assert_eq!(connection.pop_sendable(), Some(vec![Bytes::from_static(b"two")]));
        assert_eq!(connection.pop_sendable(), None);
        assert_eq!(connection.unanswered().collect::<Vec<_>>(), [3]);
        assert!(!connection.is_idle());
        connection.complete(3, vec![]);
        connection.pop_sendable();
        assert!(connection.is_idle());
        connection.on_sent(3);
    }
}
