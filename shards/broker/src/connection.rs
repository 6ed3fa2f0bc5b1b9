//! One client connection: requests in their order, responses in the same.

use std::collections::VecDeque;

use bytes::Bytes;
use types::Now;
use types::limits::{REQUESTS_IN_FLIGHT_PER_CONNECTION_MAX, RESPONSE_BYTES_QUEUED_PER_CONNECTION_MAX};

/// What a client has to take within [`STALLED_READER_MS`] so as not to count as one that does not read.
const READ_PROGRESS_BYTES: usize = 1024 * 1024;

/// How long a client may read next to nothing of its responses while others wait for the memory that they take.
pub(crate) const STALLED_READER_MS: i64 = 10_000;

/// A connection of this shard. Requests run side by side; a response waits for those before it.
///
/// Owner: [`crate::Broker`], from the connection's first event to its last.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub client_host: String,
    slots: VecDeque<Slot>,
    unsent_bytes: usize,
    /// Of responses that are known, whether or not those before them are: what the socket has not taken.
    response_bytes: usize,
    /// While there are any: since when fewer than [`READ_PROGRESS_BYTES`] of them have been taken, and how many.
    slow_since_us: u64,
    taken_bytes: usize,
    pub reading: bool,
    pub closing: bool,
    /// It was told to be closed at once.
    pub aborted: bool,
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
    pub fn complete(&mut self, now: Now, request: u64, parts: Vec<Bytes>) {
        if self.response_bytes == 0 {
            self.begin_taking(now);
        }
        self.response_bytes += parts.iter().map(Bytes::len).sum::<usize>();
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
    pub fn on_sent(&mut self, now: Now, bytes: usize) {
        assert!(bytes <= self.unsent_bytes, "no more is sent than was given");
        self.unsent_bytes -= bytes;
        self.response_bytes -= bytes;
        self.taken_bytes += bytes;
        if self.taken_bytes >= READ_PROGRESS_BYTES {
            self.begin_taking(now);
        }
    }

    fn begin_taking(&mut self, now: Now) {
        self.slow_since_us = now.mono_us;
        self.taken_bytes = 0;
    }

    /// Whether responses have taken memory for long, since the client does not read them or asked for something before them that
    /// does not end.
    pub fn is_stalled(&self, now: Now) -> bool {
        let waited_us = now.mono_us.saturating_sub(self.slow_since_us);
        self.response_bytes > 0 && waited_us >= STALLED_READER_MS as u64 * 1_000
    }

    /// Response bytes that the socket has not taken.
    pub fn response_bytes(&self) -> usize {
        self.response_bytes
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

    fn at_ms(ms: u64) -> Now {
        Now { mono_us: ms * 1_000, wall_ms: 0 }
    }

    #[test]
    fn a_client_is_stalled_that_takes_less_than_a_mebibyte_in_ten_seconds() {
        let mut connection = Connection::new("/127.0.0.1".into());
        assert!(!connection.is_stalled(at_ms(60_000)), "nothing is to be taken");
        connection.begin(1, true);
        connection.complete(at_ms(60_000), 1, vec![Bytes::from(vec![0; 3 * READ_PROGRESS_BYTES])]);
        connection.pop_sendable();
        connection.on_sent(at_ms(65_000), READ_PROGRESS_BYTES - 1);
        assert!(!connection.is_stalled(at_ms(69_999)));
        assert!(connection.is_stalled(at_ms(70_000)));
        connection.on_sent(at_ms(70_000), 1);
        assert!(!connection.is_stalled(at_ms(79_999)));
        connection.on_sent(at_ms(80_000), 2 * READ_PROGRESS_BYTES);
        assert!(!connection.is_stalled(at_ms(1_000_000)), "it has everything");
    }

    #[test]
    fn responses_keep_the_order_of_requests() {
        let mut connection = Connection::new("/127.0.0.1".into());
        for request in 1..=3 {
            connection.begin(request, false);
        }
        connection.complete(at_ms(0), 2, vec![Bytes::from_static(b"two")]);
        assert_eq!(connection.pop_sendable(), None);
        connection.complete(at_ms(0), 1, vec![]);
        assert_eq!(connection.pop_sendable(), Some(vec![]));
        assert_eq!(connection.pop_sendable(), Some(vec![Bytes::from_static(b"two")]));
        assert_eq!(connection.pop_sendable(), None);
        assert_eq!(connection.unanswered().collect::<Vec<_>>(), [3]);
        assert!(!connection.is_idle());
        connection.complete(at_ms(0), 3, vec![]);
        connection.pop_sendable();
        assert!(connection.is_idle());
        connection.on_sent(at_ms(0), 3);
    }
}
