//! One non-blocking connection: requests out, frames in. Answers come in the order of the requests.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    admin::connect,
    clock::Clock,
    error::BenchError,
    sys::{self, Interest},
};

/// Bytes of a response beyond which a broker is not believed.
pub const FRAME_BYTES_MAX: usize = 1 << 30;

/// Bytes of a request up to the end of its correlation id, the only field that differs between repetitions.
pub const HEAD_BYTES: usize = 12;

const PIECES: usize = 3;
const SLICES_MAX: usize = 64;
const RECEIVE_BYTES_START: usize = 256 << 10;

/// A request ready to be sent. Its pieces are shared with other requests.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Length, API key and version, correlation id.
    pub head: [u8; HEAD_BYTES],
    /// What follows.
    pub pieces: [Bytes; PIECES],
    /// What to remember until the answer.
    pub ticket: Ticket,
    /// Whether there will be an answer.
    pub is_answered: bool,
}

/// What is remembered of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What the answer must repeat.
    pub correlation_id: i32,
    /// When it was due.
    pub scheduled_ns: u64,
    /// When its first byte was handed to the socket.
    pub sent_ns: u64,
}

/// A connection and what waits on it.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    outgoing: VecDeque<Outgoing>,
    /// Bytes of the first outgoing request that the socket has taken.
    written: usize,
    /// When it took the first of them.
    first_sent_ns: u64,
    in_flight: VecDeque<Ticket>,
    completed: Vec<Ticket>,
    received: Vec<u8>,
    received_from: usize,
    received_to: usize,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`connect`].
    pub fn open(address: &str, timeout: Duration) -> Result<Connection, BenchError> {
        let stream = connect(address, timeout)?;
        stream
            .set_nonblocking(true)
            .map_err(|source| BenchError::Connect { address: address.to_owned(), source })?;
        Ok(Connection {
            address: address.to_owned(),
            stream,
            outgoing: VecDeque::new(),
            written: 0,
            first_sent_ns: 0,
            in_flight: VecDeque::new(),
            completed: Vec::new(),
            received: vec![0; RECEIVE_BYTES_START],
            received_from: 0,
            received_to: 0,
        })
    }

    /// What to wait for.
    pub fn interest(&self) -> Interest {
        Interest::new(self.stream.as_fd(), !self.outgoing.is_empty())
    }

    /// Requests that are not yet answered or, where there is no answer, not yet taken by the socket.
    pub fn outstanding(&self) -> usize {
        let is_counted_twice =
            self.written > 0 && self.outgoing.front().is_some_and(|request| request.is_answered);
        self.in_flight.len() + self.outgoing.len() - usize::from(is_counted_twice)
    }

    /// When the oldest request that is not answered was due.
    pub fn oldest_scheduled_ns(&self) -> Option<u64> {
        let queued = self.outgoing.front().map(|request| &request.ticket);
        self.in_flight.front().or(queued).map(|ticket| ticket.scheduled_ns)
    }

    /// Puts a request behind the others; [`Connection::flush`] sends it.
    pub fn enqueue(&mut self, request: Outgoing) {
        self.outgoing.push_back(request);
    }

    /// Sends as much as the socket takes.
    ///
    /// # Errors
    ///
    /// [`BenchError::Connection`].
    pub fn flush(&mut self, clock: &Clock) -> Result<(), BenchError> {
        while !self.outgoing.is_empty() {
            let now_ns = clock.now_ns();
            match self.write_once() {
                Ok(count) => self.advance(count, now_ns),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    fn write_once(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut filled = 0;
        let mut skip = self.written;
        for request in self.outgoing.iter().take(SLICES_MAX / (1 + PIECES)) {
            let parts =
                std::iter::once(request.head.as_slice()).chain(request.pieces.iter().map(|piece| &piece[..]));
            for part in parts {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() {
                    slices[filled] = IoSlice::new(&part[skipped..]);
                    filled += 1;
                }
            }
        }
        match self.stream.write_vectored(&slices[..filled])? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Accounts for bytes that the socket took at `now_ns`.
    fn advance(&mut self, mut count: usize, now_ns: u64) {
        while count > 0 {
            let request = self.outgoing.front().expect("the socket takes no more than it is given");
            let size = request.size_in_bytes();
            if self.written == 0 {
                self.first_sent_ns = now_ns;
                if request.is_answered {
                    self.in_flight.push_back(Ticket { sent_ns: now_ns, ..request.ticket });
                }
            }
            let taken = count.min(size - self.written);
            self.written += taken;
            count -= taken;
            if self.written == size {
                if !request.is_answered {
                    self.completed.push(Ticket { sent_ns: self.first_sent_ns, ..request.ticket });
                }
                self.outgoing.pop_front();
                self.written = 0;
            }
        }
    }

    /// Reads once from the socket. Returns whether it had something.
    ///
    /// # Errors
    ///
    /// [`BenchError::Connection`] when the broker closed it too, or claims a frame of impossible length.
    pub fn receive(&mut self) -> Result<bool, BenchError> {
        self.make_room()?;
        match self.stream.read(&mut self.received[self.received_to..]) {
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.received_to += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(false)
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    fn make_room(&mut self) -> Result<(), BenchError> {
        if self.received_from == self.received_to {
            (self.received_from, self.received_to) = (0, 0);
        }
        let needed = match self.frame_length()? {
            Some(length) => 4 + length,
            None => 4,
        };
        if self.received_from + needed > self.received.len() {
            self.received.copy_within(self.received_from..self.received_to, 0);
            self.received_to -= self.received_from;
            self.received_from = 0;
            if needed > self.received.len() {
                self.received.resize(needed.next_power_of_two(), 0);
            }
        }
        Ok(())
    }

    fn frame_length(&self) -> Result<Option<usize>, BenchError> {
        let bytes = &self.received[self.received_from..self.received_to];
        let Some(prefix) = bytes.first_chunk::<4>() else { return Ok(None) };
        match usize::try_from(i32::from_be_bytes(*prefix)) {
            Ok(length) if length <= FRAME_BYTES_MAX => Ok(Some(length)),
            _ => Err(self.broken(io::Error::other("a response of impossible length"))),
        }
    }

    /// Takes the next whole frame, without its length prefix, and the request that it must answer.
    ///
    /// # Errors
    ///
    /// [`BenchError::UnexpectedResponse`] when it answers another request than the first in flight.
    pub fn next_response(&mut self) -> Result<Option<(Ticket, &[u8])>, BenchError> {
        let Some(length) = self.frame_length()? else { return Ok(None) };
        let from = self.received_from + 4;
        if from + length > self.received_to {
            return Ok(None);
        }
        self.received_from = from + length;
        let frame = &self.received[from..from + length];
        let correlation_id = frame.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
        match self.in_flight.pop_front() {
            Some(ticket) if correlation_id == Some(ticket.correlation_id) => Ok(Some((ticket, frame))),
            expected => Err(BenchError::UnexpectedResponse(format!(
                "{} answered request {correlation_id:?} where {:?} is due",
                self.address,
                expected.map(|ticket| ticket.correlation_id),
            ))),
        }
    }

    /// Takes the requests without an answer that the socket has taken since the last call.
    pub fn take_completed(&mut self) -> Vec<Ticket> {
        std::mem::take(&mut self.completed)
    }

    fn broken(&self, source: io::Error) -> BenchError {
        BenchError::Connection { address: self.address.clone(), source }
    }
}

impl Outgoing {
    /// A request that is encoded whole, with its length prefix.
    ///
    /// # Panics
    ///
    /// When the frame is shorter than a request's header.
    pub fn from_frame(mut frame: Bytes, ticket: Ticket) -> Outgoing {
        let head = *frame.first_chunk().expect("a request has a header");
        let rest = frame.split_off(HEAD_BYTES);
        Outgoing { head, pieces: [rest, Bytes::new(), Bytes::new()], ticket, is_answered: true }
    }

    fn size_in_bytes(&self) -> usize {
        HEAD_BYTES + self.pieces.iter().map(Bytes::len).sum::<usize>()
    }
}

/// Waits until a connection is ready or the time is over, and says of each what it is ready for.
///
/// # Errors
///
/// [`BenchError::Poll`].
pub fn wait(
    connections: &[Connection],
    interests: &mut Vec<Interest>,
    timeout: Duration,
) -> Result<(), BenchError> {
    interests.clear();
    interests.extend(connections.iter().map(Connection::interest));
    sys::poll(interests, timeout).map_err(BenchError::Poll)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connection = Connection::open(&address, Duration::from_secs(5)).unwrap();
        (connection, listener.accept().unwrap().0)
    }

    fn request(correlation_id: i32, payload: &Bytes, is_answered: bool) -> Outgoing {
        let mut head = [0; HEAD_BYTES];
        head[8..].copy_from_slice(&correlation_id.to_be_bytes());
        Outgoing {
            head,
            pieces: [Bytes::from_static(b"<"), payload.clone(), Bytes::from_static(b">")],
            ticket: Ticket { correlation_id, scheduled_ns: 0, sent_ns: 0 },
            is_answered,
        }
    }

    #[test]
    fn requests_larger_than_the_socket_buffer_arrive_whole_and_in_order() {
        const REQUESTS: i32 = 40;
        let (mut connection, mut peer) = pair();
        let payload = Bytes::from((0..1_000_003_u32).map(|at| at as u8).collect::<Vec<u8>>());
        for correlation_id in 0..REQUESTS {
            connection.enqueue(request(correlation_id, &payload, true));
        }
        assert_eq!(connection.outstanding(), REQUESTS as usize);
        let expected = payload.clone();
        let reader = std::thread::spawn(move || {
            for correlation_id in 0..REQUESTS {
                let mut bytes = vec![0; HEAD_BYTES + 2 + expected.len()];
                peer.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes[8..12], correlation_id.to_be_bytes());
                assert_eq!((bytes[12], bytes[bytes.len() - 1]), (b'<', b'>'));
                assert!(bytes[13..bytes.len() - 1] == expected[..], "the payload is intact");
            }
            peer
        });
        let clock = Clock::start();
        let mut interests = Vec::new();
        loop {
            connection.flush(&clock).unwrap();
            if connection.outgoing.is_empty() {
                break;
            }
            assert_eq!(connection.outstanding(), REQUESTS as usize);
            wait(std::slice::from_ref(&connection), &mut interests, Duration::from_secs(5)).unwrap();
            assert!(interests[0].is_writable());
        }
        assert_eq!(connection.outstanding(), REQUESTS as usize);
        assert!(connection.in_flight.iter().is_sorted_by_key(|ticket| ticket.sent_ns));
        reader.join().unwrap();
    }

    #[test]
    fn frames_are_cut_wherever_the_stream_is() {
        let (mut connection, mut peer) = pair();
        let clock = Clock::start();
        let sizes = [4, 5, 300_000, 4, 70_000];
        for correlation_id in 0..sizes.len() as i32 {
            connection.enqueue(request(correlation_id, &Bytes::new(), true));
        }
        connection.flush(&clock).unwrap();
        let mut stream = Vec::new();
        for (correlation_id, size) in sizes.into_iter().enumerate() {
            stream.extend_from_slice(&i32::to_be_bytes(size));
            stream.extend_from_slice(&(correlation_id as i32).to_be_bytes());
            stream.resize(stream.len() + size as usize - 4, correlation_id as u8);
        }
        let writer = std::thread::spawn(move || {
            for part in stream.chunks(9_973) {
                peer.write_all(part).unwrap();
            }
            peer
        });
        let mut interests = Vec::new();
        let mut got = Vec::new();
        while got.len() < sizes.len() {
            wait(std::slice::from_ref(&connection), &mut interests, Duration::from_secs(5)).unwrap();
            assert!(interests[0].is_readable());
            connection.receive().unwrap();
            while let Some((ticket, frame)) = connection.next_response().unwrap() {
                assert!(frame[4..].iter().all(|&byte| byte == ticket.correlation_id as u8));
                got.push((ticket.correlation_id, frame.len() as i32));
            }
        }
        assert_eq!(
            got,
            sizes.into_iter().enumerate().map(|(at, size)| (at as i32, size)).collect::<Vec<_>>()
        );
        drop(writer.join().unwrap());
        wait(std::slice::from_ref(&connection), &mut interests, Duration::from_secs(5)).unwrap();
        assert!(matches!(connection.receive(), Err(BenchError::Connection { .. })));
    }

    #[test]
    fn an_answer_to_another_request_is_refused() {
        for answer in
            [[0, 0, 0, 4, 0, 0, 0, 9], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1], [0x7f, 0, 0, 0, 0, 0, 0, 1]]
        {
            let (mut connection, mut peer) = pair();
            connection.enqueue(request(1, &Bytes::new(), true));
            connection.flush(&Clock::start()).unwrap();
            peer.write_all(&answer).unwrap();
            let mut interests = Vec::new();
            wait(std::slice::from_ref(&connection), &mut interests, Duration::from_secs(5)).unwrap();
            connection.receive().unwrap();
            assert!(connection.next_response().is_err(), "{answer:?}");
        }
    }

    #[test]
    fn requests_without_an_answer_complete_when_sent() {
        let (mut connection, _peer) = pair();
        connection.enqueue(request(1, &Bytes::new(), false));
        connection.enqueue(request(2, &Bytes::new(), false));
        connection.flush(&Clock::start()).unwrap();
        let completed: Vec<i32> =
            connection.take_completed().iter().map(|ticket| ticket.correlation_id).collect();
        assert_eq!(completed, [1, 2]);
        assert_eq!(connection.outstanding(), 0);
    }
}
