//! The first words between two nodes: who calls whom, and whether the callee takes the call.
//!
//! All numbers are little-endian. The caller says: magic, version (u16), its id (i32), the id that it calls (i32), its
//! shard (u16), its incarnation (u64), its data directory's id (16 bytes), the cluster's id (u16 length, UTF-8; empty while
//! it knows none). The callee answers with a code (u8; 0 takes the call), its own data directory's id and a text (u16 length,
//! UTF-8), and never says anything again.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use shard::PeerAddress;
use socket2::SockRef;
use types::{DirectoryId, NodeId, ShardId};

use crate::peer_identity::{Identity, OtherDirectory};

const MAGIC: [u8; 8] = *b"CHRONIK\0";
const VERSION: u16 = 3;

/// What comes before all that may differ between versions: magic and version.
const PREFIX_BYTES: usize = 10;

/// What follows, up to and with the length of the cluster's id.
const CALLER_BYTES: usize = 36;

/// What comes before the text of an answer.
const ANSWER_HEAD_BYTES: usize = 19;

const CLUSTER_ID_BYTES_MAX: usize = 256;

/// The longest text of an answer that is read.
const TEXT_BYTES_MAX: usize = 1024;

/// Shards that a caller may have: the bound of the connections of one peer.
const CALLER_SHARDS_MAX: u16 = 1024;

/// How long the caller may take for its words, and the callee for its answer.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a peer's machine may leave what was sent without an acknowledgement before the connection is given up and made anew.
/// TCP itself would go on with the old one for minutes, in ever longer steps, when the network or the machine is back.
const UNANSWERED_TIME_MAX: Duration = Duration::from_secs(3);

/// How long one address may take to accept the connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Addresses of one host name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What a caller says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) caller: NodeId,
    pub(crate) callee: NodeId,
    pub(crate) shard: ShardId,
    pub(crate) incarnation: u64,
    pub(crate) directory_id: DirectoryId,
    pub(crate) cluster_id: Option<String>,
}

/// Why a call is not taken, as the caller is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this port is for Chronik nodes only")]
    NotChronik,
    #[error("it speaks version {VERSION} of the protocol between nodes, not {theirs}")]
    OtherVersion { theirs: u16 },
    #[error("what it was told of the caller makes no sense: {0}")]
    Malformed(&'static str),
    #[error("you called node {called}, this is node {own}: correct --peers or --node-id")]
    OtherNode { called: NodeId, own: NodeId },
    #[error("it has the caller's own id {own}: give each node another --node-id")]
    SameNode { own: NodeId },
    #[error("you called yourself: correct the address in --peers")]
    Oneself,
    #[error("it belongs to cluster {own}, not to {theirs}")]
    OtherCluster { own: String, theirs: String },
    #[error(
        "it knows no node {caller}: name it in its --peers, or add it with `chronik-server cluster add-node`"
    )]
    UnknownPeer { caller: NodeId },
    #[error("it is still starting")]
    StillStarting,
    #[error(transparent)]
    OtherDirectory(#[from] OtherDirectory),
}

impl Refusal {
    fn code(&self) -> u8 {
        match self {
            Refusal::NotChronik => 1,
            Refusal::OtherVersion { .. } => 2,
            Refusal::Malformed(_) => 3,
            Refusal::OtherNode { .. } => 4,
            Refusal::SameNode { .. } => 5,
            Refusal::Oneself => 6,
            Refusal::OtherCluster { .. } => 7,
            Refusal::UnknownPeer { .. } => 8,
            Refusal::StillStarting => 9,
            Refusal::OtherDirectory(_) => 10,
        }
    }
}

/// Why there is no connection to a peer. Its text is what an operator is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// Nothing listens there.
    #[error("{0}")]
    ConnectionRefused(io::Error),
    /// There was no connection, or none that lasted.
    #[error("{0}")]
    Unreachable(io::Error),
    /// The connection was there and went before an answer came, as it does when a process ends.
    #[error("the connection broke before it answered: {0}")]
    Broken(io::Error),
    /// The callee does not take the call.
    #[error("it refuses: {0}")]
    Rejected(String),
    /// The callee is not the node that this one knows: it lost its data.
    #[error(transparent)]
    OtherDirectory(#[from] OtherDirectory),
}

/// A connection to a peer that has taken the call.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    /// The peer's data directory.
    pub(crate) directory_id: DirectoryId,
}

/// Connects to a peer and introduces this node. Blocks for a few seconds at most, and for the look-up of the name.
pub(crate) fn dial(address: &PeerAddress, hello: &Hello) -> Result<Dialled, DialError> {
    let found = (address.host.as_str(), address.port).to_socket_addrs().map_err(DialError::Unreachable)?;
    let stream = connect(found.take(ADDRESSES_MAX))?;
    stream.set_nodelay(true).map_err(DialError::Unreachable)?;
    SockRef::from(&stream).set_tcp_user_timeout(Some(UNANSWERED_TIME_MAX)).map_err(DialError::Unreachable)?;
    let mut timed = Timed::new(&stream);
    timed.write_all(&hello.encode()).map_err(DialError::Broken)?;
    let directory_id = read_answer(&mut timed)?;
    stream.set_nonblocking(true).map_err(DialError::Unreachable)?;
    Ok(Dialled { stream, directory_id })
}

fn connect(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, DialError> {
    let mut failures = Vec::new();
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_TIME_MAX) {
            Ok(stream) => return Ok(stream),
            Err(error) => failures.push(error),
        }
    }
    Err(why_unconnected(failures))
}

/// Nothing runs there only if each address refuses that this machine can try at all: a name has often one of IPv6
/// where there is no IPv6.
fn why_unconnected(failures: Vec<io::Error>) -> DialError {
    let mut refused = None;
    let mut no_way = None;
    for error in failures {
        match error.kind() {
            ErrorKind::ConnectionRefused => refused = Some(error),
            ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable => no_way = Some(error),
            _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => no_way = Some(error),
            _ => return DialError::Unreachable(error),
        }
    }
    match (refused, no_way) {
        (Some(error), _) => DialError::ConnectionRefused(error),
        (None, Some(error)) => DialError::Unreachable(error),
        (None, None) => DialError::Unreachable(io::Error::other("its name has no address")),
    }
}

fn read_answer(stream: &mut impl Read) -> Result<DirectoryId, DialError> {
    let mut head = [0; ANSWER_HEAD_BYTES];
    stream.read_exact(&mut head).map_err(DialError::Broken)?;
    let (code, directory_id) = (head[0], DirectoryId(array(&head, 1)));
    let length = usize::from(u16::from_le_bytes(array(&head, 17)));
    if length > TEXT_BYTES_MAX {
        return Err(DialError::Rejected("it does not answer like a Chronik node".to_owned()));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).map_err(DialError::Broken)?;
    if code == 0 {
        return Ok(directory_id);
    }
    // Another's words go into a log of this node: one line, and nothing that a terminal would obey.
    let text = String::from_utf8_lossy(&text);
    Err(DialError::Rejected(text.chars().filter(|char| !char.is_control()).collect()))
}

/// Hears who calls and answers. The connection is good for frames afterwards, still blocking.
///
/// # Errors
///
/// `Ok(Err)` with what the caller was told, `Err` when the connection broke or stood still for too long.
pub(crate) fn answer(stream: &TcpStream, identity: &Identity) -> io::Result<Result<Hello, Refusal>> {
    let mut timed = Timed::new(stream);
    let heard = Hello::read(&mut timed)?;
    let outcome = heard.and_then(|hello| identity.admit(&hello).map(|()| hello));
    let (code, text) = match &outcome {
        Ok(_) => (0, String::new()),
        Err(refusal) => (refusal.code(), refusal.to_string()),
    };
    let text = &text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)];
    let mut words = vec![code];
    words.extend(identity.directory_id().0);
    words.extend(u16::try_from(text.len()).expect("the bound fits").to_le_bytes());
    words.extend_from_slice(text);
    timed.write_all(&words)?;
    Ok(outcome)
}

impl Hello {
    fn encode(&self) -> Vec<u8> {
        let cluster_id = self.cluster_id.as_deref().unwrap_or_default().as_bytes();
        let length = u16::try_from(cluster_id.len()).expect("a cluster's id is short");
        let mut words = MAGIC.to_vec();
        words.extend(VERSION.to_le_bytes());
        words.extend(self.caller.0.to_le_bytes());
        words.extend(self.callee.0.to_le_bytes());
        words.extend(self.shard.0.to_le_bytes());
        words.extend(self.incarnation.to_le_bytes());
        words.extend(self.directory_id.0);
        words.extend(length.to_le_bytes());
        words.extend_from_slice(cluster_id);
        words
    }

    fn read(stream: &mut impl Read) -> io::Result<Result<Hello, Refusal>> {
        let mut prefix = [0; PREFIX_BYTES];
        stream.read_exact(&mut prefix)?;
        if prefix[..8] != MAGIC {
            return Ok(Err(Refusal::NotChronik));
        }
        let theirs = u16::from_le_bytes(array(&prefix, 8));
        if theirs != VERSION {
            return Ok(Err(Refusal::OtherVersion { theirs }));
        }
        let mut caller = [0; CALLER_BYTES];
        stream.read_exact(&mut caller)?;
        let length = usize::from(u16::from_le_bytes(array(&caller, 34)));
        if length > CLUSTER_ID_BYTES_MAX {
            return Ok(Err(Refusal::Malformed("the cluster's id is too long")));
        }
        let mut cluster_id = vec![0; length];
        stream.read_exact(&mut cluster_id)?;
        let Ok(cluster_id) = String::from_utf8(cluster_id) else {
            return Ok(Err(Refusal::Malformed("the cluster's id is not text")));
        };
        let hello = Hello {
            caller: NodeId(i32::from_le_bytes(array(&caller, 0))),
            callee: NodeId(i32::from_le_bytes(array(&caller, 4))),
            shard: ShardId(u16::from_le_bytes(array(&caller, 8))),
            incarnation: u64::from_le_bytes(array(&caller, 10)),
            directory_id: DirectoryId(array(&caller, 18)),
            cluster_id: Some(cluster_id).filter(|id| !id.is_empty()),
        };
        if hello.shard.0 >= CALLER_SHARDS_MAX {
            return Ok(Err(Refusal::Malformed("it has too many shards")));
        }
        Ok(Ok(hello))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is as long as the array")
}

/// A stream whose reads and writes end together at one deadline, however the other side spreads its bytes.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn new(stream: &TcpStream) -> Timed<'_> {
        Timed { stream, deadline: Instant::now() + HANDSHAKE_TIME_MAX }
    }

    fn rest(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            rest => Ok(Some(rest)),
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.rest()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.rest()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(cluster_id: Option<&str>) -> Hello {
        Hello {
            caller: NodeId(1),
            callee: NodeId(2),
            shard: ShardId(3),
            incarnation: u64::MAX - 4,
            directory_id: DirectoryId([7; 16]),
            cluster_id: cluster_id.map(str::to_owned),
        }
    }

    #[test]
    fn a_caller_is_heard_as_it_speaks() {
        for hello in [hello(None), hello(Some("MkU3OEVBNTcwNTJENDM2Qk"))] {
            let words = hello.encode();
            assert_eq!(Hello::read(&mut words.as_slice()).expect("complete"), Ok(hello));
            for end in 0..words.len() {
                assert!(Hello::read(&mut &words[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn other_words_are_refused() {
        let check = |at: usize, byte: u8, expected: Refusal| {
            let mut words = hello(None).encode();
            words[at] = byte;
            assert_eq!(Hello::read(&mut words.as_slice()).expect("complete"), Err(expected));
        };
        check(0, b'c', Refusal::NotChronik);
        check(8, 9, Refusal::OtherVersion { theirs: 9 });
        check(19, 4, Refusal::Malformed("it has too many shards"));
        check(45, 2, Refusal::Malformed("the cluster's id is too long"));
        let mut words = hello(Some("x")).encode();
        *words.last_mut().expect("not empty") = 0xff;
        let heard = Hello::read(&mut words.as_slice()).expect("complete");
        assert_eq!(heard, Err(Refusal::Malformed("the cluster's id is not text")));
    }

    #[test]
    fn a_process_has_ended_where_all_that_can_be_tried_refuse() {
        let why = |codes: &[i32]| {
            why_unconnected(codes.iter().map(|code| io::Error::from_raw_os_error(*code)).collect())
        };
        for ended in [&[libc::ECONNREFUSED][..], &[libc::EADDRNOTAVAIL, libc::ECONNREFUSED]] {
            assert!(matches!(why(ended), DialError::ConnectionRefused(_)), "{ended:?}");
        }
        for unknown in [&[][..], &[libc::ENETUNREACH], &[libc::ECONNREFUSED, libc::ETIMEDOUT]] {
            assert!(matches!(why(unknown), DialError::Unreachable(_)), "{unknown:?}");
        }
    }

    #[test]
    fn an_answer_is_taken_for_what_it_is() {
        let answer = |code: u8, text: &[u8]| [&[code], &[7; 16][..], text].concat();
        let taken = read_answer(&mut answer(0, b"\0\0").as_slice()).expect("taken");
        assert_eq!(taken, DirectoryId([7; 16]));
        let rejected = |answer: &[u8]| match read_answer(&mut &answer[..]) {
            Err(DialError::Rejected(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(rejected(&answer(4, b"\x03\0a\nb")), "ab");
        assert_eq!(rejected(b"HTTP/1.1 400 Bad Request"), "it does not answer like a Chronik node");
        assert!(matches!(read_answer(&mut answer(0, b"\x05").as_slice()), Err(DialError::Broken(_))));
    }
}
