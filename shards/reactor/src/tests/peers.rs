//! Connections between nodes: order, loss, refusals, and who is told what.

use std::net::{SocketAddr, TcpListener};

use shard::PeerAddress;
use types::DirectoryId;

use super::*;
use crate::peer_frame::frame_header;
use crate::peer_handshake::{DialError, Hello, answer, dial};
use crate::peer_identity::{Identity, Own};
use crate::{Exit, Fatal, stored_cluster_id};

/// The data directory of node 2 where a test takes its part.
const DIRECTORY: DirectoryId = DirectoryId([2; 16]);

/// A node whose state machine tells the test what happens with its peers, and does what the test wants.
struct PeerNode {
    handle: NodeHandle,
    raft: SocketAddr,
    commands: crossbeam_channel::Sender<Vec<Effect>>,
    events: crossbeam_channel::Receiver<(ShardId, Event)>,
    client: TcpStream,
}

/// An address that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn peer_at(node: i32, address: SocketAddr) -> PeerAddress {
    PeerAddress { node: NodeId(node), host: address.ip().to_string(), port: address.port() }
}

fn is_of_peers(event: &Event) -> bool {
    matches!(
        event,
        Event::PeerConnected { .. }
            | Event::PeerDisconnected { .. }
            | Event::PeerJoined { .. }
            | Event::FromPeer { .. }
            | Event::PeerSent { .. }
    )
}

impl PeerNode {
    fn start(data_dir: &Path, id: i32, raft: SocketAddr, shards: u16, peers: &[PeerAddress]) -> PeerNode {
        let mut options = options(data_dir, shards);
        options.node_id = NodeId(id);
        options.voters = vec![NodeId(id)];
        options.incarnation = 70 + u64::from(raft.port());
        options.raft_listen = vec![raft];
        let (to_test, events) = crossbeam_channel::unbounded();
        let (commands, to_do) = crossbeam_channel::unbounded::<Vec<Effect>>();
        let peers = peers.to_vec();
        let make_core = move |ShardStart { shard, .. }: ShardStart, effects: &mut Vec<Effect>| {
            effects.push(Effect::SetPeers { peers: peers.clone() });
            effects.push(Effect::KnownDirectories { directories: Vec::new() });
            let (to_test, to_do) = (to_test.clone(), to_do.clone());
            closure_core(move |_, event, effects, _| match event {
                Event::Frame { connection, frame } => {
                    effects.extend(to_do.try_iter().flatten());
                    effects.push(respond(connection, frame));
                }
                // The test may have ended meanwhile.
                event if is_of_peers(&event) => drop(to_test.send((shard, event))),
                _ => {}
            })
        };
        let handle = Node::start(options, make_core).expect("the node starts");
        let client = connect(&handle);
        let mut node = PeerNode { raft: handle.raft_addresses()[0], handle, commands, events, client };
        // From then on it knows its peers; before, it refuses all calls.
        node.carry_out(Vec::new());
        node
    }

    /// Has one shard carry out the effects.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        self.commands.send(effects).expect("the node runs");
        send(&mut self.client, b"go");
        assert_eq!(receive(&mut self.client), b"go");
    }

    fn send_frame(&mut self, to: i32, parts: &[&[u8]]) {
        let parts = parts.iter().map(|part| Bytes::copy_from_slice(part)).collect();
        self.carry_out(vec![Effect::SendToPeer { to: NodeId(to), parts }]);
    }

    fn next(&self) -> Event {
        self.events.recv_timeout(PATIENCE).expect("an event").1
    }

    /// The next event but for what was sent, which is added to `sent`.
    fn next_but_sent(&self, sent: &mut usize) -> Event {
        loop {
            match self.next() {
                Event::PeerSent { bytes, .. } => *sent += bytes,
                event => return event,
            }
        }
    }

    fn await_sent(&self, sent: &mut usize, expected: usize) {
        while *sent < expected {
            match self.next() {
                Event::PeerSent { bytes, .. } => *sent += bytes,
                other => panic!("{other:?} while {sent} of {expected} bytes are sent"),
            }
        }
        assert_eq!(*sent, expected);
    }

    fn await_connected(&self, peer: i32) {
        let event = self.next();
        assert!(matches!(event, Event::PeerConnected { peer: found } if found == NodeId(peer)), "{event:?}");
    }

    fn await_joined(&self, peer: i32) {
        let event = self.next();
        assert!(matches!(event, Event::PeerJoined { peer: found } if found == NodeId(peer)), "{event:?}");
    }

    fn await_frame(&self, peer: i32) -> Bytes {
        match self.next() {
            Event::FromPeer { peer: found, frame } if found == NodeId(peer) => frame,
            other => panic!("{other:?}"),
        }
    }

    fn stop(self) {
        assert_eq!(self.handle.stop(), Exit::Finished);
    }
}

/// What node 2 says to node 1.
fn hello() -> Hello {
    Hello {
        caller: NodeId(2),
        callee: NodeId(1),
        shard: ShardId(0),
        incarnation: 1,
        directory_id: DIRECTORY,
        cluster_id: None,
    }
}

/// Calls as a node does, with a stream that the test can block on.
fn call(node: &PeerNode, hello: &Hello) -> Result<TcpStream, DialError> {
    let stream = dial(&peer_at(hello.callee.0, node.raft), hello)?.stream;
    stream.set_nonblocking(false).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    Ok(stream)
}

/// Takes the call of node 1 as node 2 would.
fn take_call(listener: &TcpListener) -> TcpStream {
    take_call_with(listener, DIRECTORY)
}

/// The same where node 2 has this data directory.
fn take_call_with(listener: &TcpListener, directory_id: DirectoryId) -> TcpStream {
    let identity = Identity::new(Own { node: NodeId(2), incarnation: 9, directory_id }, None);
    identity.set_peers([NodeId(1)].into());
    identity.know_directories(Vec::new());
    let (stream, _) = listener.accept().expect("a call");
    let hello = answer(&stream, &identity).expect("heard").expect("admitted");
    assert_eq!((hello.caller, hello.callee), (NodeId(1), NodeId(2)));
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

fn peer_framed(body: &[u8]) -> Vec<u8> {
    let mut wire = frame_header(&[Bytes::copy_from_slice(body)]).to_vec();
    wire.extend_from_slice(body);
    wire
}

/// Two nodes that are connected both ways.
fn two_nodes(dirs: [&Path; 2], shards: [u16; 2]) -> [PeerNode; 2] {
    let addresses = [free_address(), free_address()];
    let one = PeerNode::start(dirs[0], 1, addresses[0], shards[0], &[peer_at(2, addresses[1])]);
    let two = PeerNode::start(dirs[1], 2, addresses[1], shards[1], &[peer_at(1, addresses[0])]);
    let incoming = [shards[1], shards[0]];
    for ((node, own), incoming) in [&one, &two].into_iter().zip(shards).zip(incoming) {
        let (mut connected, mut joined) = (0, 0);
        while (connected, joined) != (own, incoming) {
            match node.next() {
                Event::PeerConnected { .. } => connected += 1,
                Event::PeerJoined { .. } => joined += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    [one, two]
}

#[test]
fn frames_arrive_in_order_and_every_byte_is_accounted_for() {
    let (one_dir, two_dir) = (temporary(), temporary());
    let [mut one, two] = two_nodes([one_dir.path(), two_dir.path()], [1, 1]);
    let sizes = [0, 1, 10, 70_000, 3_000_000, 5, 20 << 20, 17];
    let bodies = sizes.map(|bytes| patterned(bytes, bytes));
    let effects = bodies.iter().map(|body| {
        let (front, back) = body.split_at(body.len() / 3);
        let parts = vec![Bytes::copy_from_slice(front), Bytes::new(), Bytes::copy_from_slice(back)];
        Effect::SendToPeer { to: NodeId(2), parts }
    });
    one.carry_out(effects.collect());
    for body in &bodies {
        assert!(two.await_frame(1) == *body, "a frame of {} bytes", body.len());
    }
    let (mut sent, all) = (0, sizes.iter().sum());
    one.await_sent(&mut sent, all);
    for number in 0..200u32 {
        one.send_frame(2, &[&number.to_le_bytes()]);
    }
    for number in 0..200u32 {
        assert_eq!(two.await_frame(1), number.to_le_bytes()[..]);
    }
    one.stop();
    two.stop();
}

#[test]
fn shards_connect_each_on_its_own_whatever_their_numbers() {
    let (one_dir, two_dir) = (temporary(), temporary());
    let [one, two] = two_nodes([one_dir.path(), two_dir.path()], [3, 2]);
    one.stop();
    two.stop();
}

#[test]
fn a_peer_that_has_ended_is_told_from_one_that_is_lost_and_is_called_again() {
    let (one_dir, two_dir) = (temporary(), temporary());
    let [mut one, two] = two_nodes([one_dir.path(), two_dir.path()], [1, 1]);
    let (address, own) = (two.raft, one.raft);
    two.stop();
    let event = one.next();
    assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: true }), "{event:?}");
    one.send_frame(2, &[b"nobody hears it"]);
    let event = one.next();
    assert!(matches!(event, Event::PeerSent { peer: NodeId(2), bytes: 15 }), "{event:?}");

    let two = PeerNode::start(two_dir.path(), 2, address, 1, &[peer_at(1, own)]);
    let (mut is_connected, mut is_joined) = (false, false);
    while !(is_connected && is_joined) {
        match one.next() {
            Event::PeerConnected { .. } => is_connected = true,
            Event::PeerJoined { .. } => is_joined = true,
            other => panic!("{other:?}"),
        }
    }
    one.send_frame(2, &[b"again"]);
    loop {
        match two.next() {
            Event::FromPeer { frame, .. } => break assert_eq!(frame, b"again"[..]),
            Event::PeerConnected { .. } | Event::PeerJoined { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    one.stop();
    two.stop();
}

#[test]
fn what_a_lost_connection_did_not_take_is_accounted_for_too() {
    const BODY_BYTES: usize = 8 << 20;
    let dir = temporary();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, address)]);
    let stream = take_call(&listener);
    one.await_connected(2);
    for _ in 0..3 {
        one.send_frame(2, &[&patterned(BODY_BYTES, 0)]);
    }
    // Unread, it fills the buffers of the sockets and no more.
    let mut sent = 0;
    drop(stream);
    let event = one.next_but_sent(&mut sent);
    assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: false }), "{event:?}");
    assert_eq!(sent, 3 * BODY_BYTES);

    // An idle connection whose end comes, and one that is answered on.
    for is_answered in [false, true] {
        let mut stream = take_call(&listener);
        one.await_connected(2);
        if is_answered {
            stream.write_all(b"x").expect("sent");
            assert!(is_closed(&mut stream));
        }
        drop(stream);
        let event = one.next();
        assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: false }), "{event:?}");
    }
    let stream = take_call(&listener);
    one.await_connected(2);
    drop(listener);
    drop(stream);
    let event = one.next();
    assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: true }), "{event:?}");
    one.stop();
}

#[test]
fn a_peer_that_leaves_the_set_is_disconnected_both_ways() {
    let dir = temporary();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, address)]);
    let mut outgoing = take_call(&listener);
    one.await_connected(2);
    let mut incoming = call(&one, &hello()).expect("admitted");
    one.await_joined(2);
    one.carry_out(vec![Effect::SetPeers { peers: Vec::new() }]);
    let event = one.next();
    assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: false }), "{event:?}");
    assert!(is_closed(&mut outgoing) && is_closed(&mut incoming));
    let refused = call(&one, &hello()).expect_err("not admitted");
    assert_eq!(
        refused.to_string(),
        "it refuses: it knows no node 2: name it in its --peers, or add it with `chronik-server cluster add-node`"
    );
    // Known again, it is called again.
    one.carry_out(vec![Effect::SetPeers { peers: vec![peer_at(2, address)] }]);
    let _outgoing = take_call(&listener);
    one.await_connected(2);
    one.stop();
}

#[test]
fn a_peer_without_its_data_is_talked_to_in_neither_direction() {
    let dir = temporary();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, address)]);
    let mut outgoing = take_call(&listener);
    one.await_connected(2);
    let mut incoming = call(&one, &hello()).expect("admitted");
    one.await_joined(2);
    // It turns out that node 2 was another.
    let registered = DirectoryId([9; 16]);
    one.carry_out(vec![Effect::KnownDirectories { directories: vec![(NodeId(2), Some(registered))] }]);
    let event = one.next();
    assert!(matches!(event, Event::PeerDisconnected { peer: NodeId(2), has_ended: false }), "{event:?}");
    assert!(is_closed(&mut outgoing) && is_closed(&mut incoming));
    let refused = call(&one, &hello()).expect_err("not admitted");
    assert_eq!(
        refused.to_string(),
        "it refuses: node 2 comes with another data directory (AgICAgICAgICAgICAgICAg) than it was registered with \
         (CQkJCQkJCQkJCQkJCQkJCQ): restore that one, or give the node a new one with \
         `chronik-server cluster replace-node`"
    );
    // Called again, it is not recognised.
    let mut outgoing = take_call(&listener);
    assert!(is_closed(&mut outgoing));
    let _outgoing = take_call_with(&listener, registered);
    one.await_connected(2);
    let _incoming = call(&one, &Hello { directory_id: registered, ..hello() }).expect("admitted");
    one.await_joined(2);
    one.stop();
}

#[test]
fn a_new_connection_of_a_peer_replaces_its_old_one() {
    let dir = temporary();
    let one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, free_address())]);
    let mut old = call(&one, &hello()).expect("admitted");
    one.await_joined(2);
    old.write_all(&peer_framed(b"first")).expect("sent");
    assert_eq!(one.await_frame(2), b"first"[..]);
    old.write_all(&peer_framed(b"half")[..9]).expect("sent");
    let mut of_other_shard = call(&one, &Hello { shard: ShardId(1), ..hello() }).expect("admitted");
    one.await_joined(2);
    let mut new = call(&one, &hello()).expect("admitted");
    one.await_joined(2);
    assert!(is_closed(&mut old));
    for stream in [&mut of_other_shard, &mut new] {
        stream.write_all(&peer_framed(b"second")).expect("sent");
        assert_eq!(one.await_frame(2), b"second"[..]);
    }
    one.stop();
}

#[test]
fn calls_that_are_not_for_this_node_are_refused() {
    let dir = temporary();
    let mut one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, free_address())]);
    let refusal = |one: &PeerNode, hello: &Hello| {
        let address = PeerAddress { node: hello.callee, ..peer_at(0, one.raft) };
        dial(&address, hello).expect_err("refused").to_string()
    };
    assert_eq!(
        refusal(&one, &Hello { callee: NodeId(3), ..hello() }),
        "it refuses: you called node 3, this is node 1: correct --peers or --node-id"
    );
    assert_eq!(
        refusal(&one, &Hello { caller: NodeId(1), ..hello() }),
        "it refuses: it has the caller's own id 1: give each node another --node-id"
    );
    assert_eq!(
        refusal(&one, &Hello { caller: NodeId(4), ..hello() }),
        "it refuses: it knows no node 4: name it in its --peers, or add it with `chronik-server cluster add-node`"
    );
    one.carry_out(vec![Effect::Joined { cluster_id: "a".to_owned() }]);
    assert_eq!(one.handle.wait_joined(), Ok("a".to_owned()));
    assert_eq!(
        refusal(&one, &Hello { cluster_id: Some("b".to_owned()), ..hello() }),
        "it refuses: it belongs to cluster a, not to b"
    );
    drop(call(&one, &Hello { cluster_id: Some("a".to_owned()), ..hello() }).expect("its own cluster"));
    one.await_joined(2);
    one.stop();
}

#[test]
fn whoever_is_no_node_is_closed_and_disturbs_nobody() {
    let dir = temporary();
    let one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, free_address())]);
    let connect = || {
        let stream = TcpStream::connect(one.raft).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    };
    let mut garbage = connect();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut answered = Vec::new();
    // Closed with bytes unread, it may be reset behind the answer.
    let _ = garbage.read_to_end(&mut answered);
    assert!(answered.is_empty() || answered.starts_with(&[1]), "{answered:?}");
    let mut silent = connect();
    let mut half = connect();
    half.write_all(b"CHRONIK\0\x03\0\x02").expect("sent");
    // More than are heard at once: the rest is closed unheard.
    let crowd: Vec<_> = (0..40).map(|_| connect()).collect();
    assert!(is_closed(&mut silent) && is_closed(&mut half));
    for mut stream in crowd {
        assert!(is_closed(&mut stream));
    }
    let mut peer = call(&one, &hello()).expect("admitted");
    one.await_joined(2);
    peer.write_all(&peer_framed(b"still here")).expect("sent");
    assert_eq!(one.await_frame(2), b"still here"[..]);
    one.stop();
}

#[test]
fn a_bad_frame_closes_its_connection() {
    let dir = temporary();
    let one = PeerNode::start(dir.path(), 1, free_address(), 1, &[peer_at(2, free_address())]);
    let mut damaged = peer_framed(b"damaged");
    damaged[10] ^= 1;
    let mut oversized = u32::MAX.to_le_bytes().to_vec();
    oversized.extend([0; 4]);
    for bad in [damaged, oversized] {
        let mut peer = call(&one, &hello()).expect("admitted");
        one.await_joined(2);
        peer.write_all(&peer_framed(b"good")).expect("sent");
        peer.write_all(&bad).expect("sent");
        // It may be closed by now.
        let _ = peer.write_all(&peer_framed(b"behind a bad one"));
        assert!(is_closed(&mut peer));
        assert_eq!(one.await_frame(2), b"good"[..]);
    }
    drop(call(&one, &hello()).expect("admitted"));
    one.await_joined(2);
    one.stop();
}

#[test]
fn a_cluster_is_joined_once_and_for_all() {
    let dir = temporary();
    let mut one = PeerNode::start(dir.path(), 1, free_address(), 1, &[]);
    let joined = |cluster_id: &str| vec![Effect::Joined { cluster_id: cluster_id.to_owned() }];
    one.carry_out(joined("a"));
    assert_eq!(one.handle.wait_joined(), Ok("a".to_owned()));
    assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("a".to_owned()));
    one.carry_out(joined("a"));
    one.commands.send(joined("b")).expect("the node runs");
    // It may end before it answers.
    send(&mut one.client, b"go");
    let exit = one.handle.wait();
    assert!(matches!(exit, Exit::Fatal(Fatal::NotJoined { .. })), "{exit:?}");
    assert_eq!(one.handle.wait_joined(), Err(exit));
    assert_eq!(stored_cluster_id(dir.path()).expect("read"), Some("a".to_owned()));
}
