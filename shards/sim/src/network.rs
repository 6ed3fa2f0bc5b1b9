//! Connections between nodes. Each is dialled by a shard, carries frames in one direction, and delivers them in order until it breaks.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use shard::{Event, PeerAddress};
use types::{NodeId, ShardId};

use crate::node::Place;
use crate::world::{Happening, World};

/// How long a node rests before it dials again, at most, in microseconds.
const DIAL_REST_US_MAX: u64 = 200_000;

/// How long a connection outlives a way that is closed, at most, in microseconds.
const TIMEOUT_US_MAX: u64 = 6_000_000;

/// How much longer everything takes while the network is slow.
const SLOWNESS: u64 = 100;

/// Bytes that a socket takes before anything of them arrives.
const SOCKET_BYTES: usize = 1 << 20;

/// The number of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineId(u64);

/// A frame on its way.
struct Frame {
    due_us: u64,
    bytes: Bytes,
    /// The sender was told that it left.
    is_told: bool,
}

/// One connection, seen from both ends.
struct Line {
    from: Place,
    to: Place,
    /// The runs of both processes.
    sender: u64,
    receiver: u64,
    /// The receiver was told of it, and of none since.
    is_joined: bool,
    /// The sender was told of it.
    is_connected: bool,
    is_broken: bool,
    last_us: u64,
    in_flight: VecDeque<Frame>,
}

/// All connections between nodes, and what is in their way.
#[derive(Default)]
pub(crate) struct Network {
    lines: BTreeMap<LineId, Line>,
    /// By the shard that dials and the node that it wants: the connection, once it has one.
    dials: BTreeMap<(Place, usize), Option<LineId>>,
    /// How many cuts close the way from one node to another.
    closed: BTreeMap<(usize, usize), u32>,
    slow_until_us: u64,
    next_line: u64,
}

impl Network {
    fn is_open(&self, from: usize, to: usize) -> bool {
        !self.closed.contains_key(&(from, to))
    }

    fn is_open_both_ways(&self, one: usize, other: usize) -> bool {
        self.is_open(one, other) && self.is_open(other, one)
    }

    fn lines_of(&self, is_meant: impl Fn(&Line) -> bool) -> Vec<LineId> {
        self.lines.iter().filter(|(_, line)| is_meant(line)).map(|(id, _)| *id).collect()
    }
}

impl World {
    fn peer_delay_us(&mut self) -> u64 {
        let slowness = if self.network.slow_until_us > self.now_us { SLOWNESS } else { 1 };
        let delay_us = self.random.delay_us(self.delays.network_us * slowness);
        10 + delay_us
    }

    fn place_of_peer(peer: NodeId) -> usize {
        usize::try_from(peer.0 - 1).expect("ids of nodes are counted from 1")
    }

    /// A shard says whom it wants to be connected to.
    pub(crate) fn set_peers(&mut self, from: Place, peers: &[PeerAddress]) {
        for peer in peers {
            let to = World::place_of_peer(peer.node);
            assert_ne!(to, from.node, "a node is no peer of itself");
            assert!(to < self.nodes.len(), "a peer is one of the nodes");
            let before = self.network.dials.insert((from, to), None);
            assert!(before.is_none(), "peers are told once");
            let delay_us = self.peer_delay_us();
            self.schedule_at_node(delay_us, from.node, Happening::Dial { from, to });
        }
    }

    pub(crate) fn on_dial(&mut self, from: Place, to: usize) {
        assert_eq!(
            self.network.dials.get(&(from, to)),
            Some(&None),
            "a shard dials while it is not connected"
        );
        let is_up = self.nodes[to].process.is_some() && self.network.is_open_both_ways(from.node, to);
        if !is_up {
            let rest_us = self.random.between(10_000, DIAL_REST_US_MAX);
            return self.schedule_at_node(rest_us, from.node, Happening::Dial { from, to });
        }
        let shards = u16::try_from(self.nodes[to].shards()).expect("few shards");
        let id = LineId(self.network.next_line);
        self.network.next_line += 1;
        let joined_us = self.peer_delay_us();
        let connected_us = self.peer_delay_us();
        let place = Place { node: to, shard: ShardId(from.shard.0 % shards) };
        let line = Line {
            from,
            to: place,
            sender: self.nodes[from.node].incarnation().expect("who dials runs"),
            receiver: self.nodes[to].incarnation().expect("who answers runs"),
            is_joined: false,
            is_connected: false,
            is_broken: false,
            last_us: self.now_us + joined_us,
            in_flight: VecDeque::new(),
        };
        self.network.lines.insert(id, line);
        self.network.dials.insert((from, to), Some(id));
        self.schedule_at_node(joined_us, to, Happening::LineJoined(id));
        self.schedule_at_node(connected_us, from.node, Happening::LineConnected(id));
    }

    /// The receiver hears of a connection. Nothing comes over earlier ones of the same sender any more.
    pub(crate) fn on_line_joined(&mut self, id: LineId) {
        let Some(line) = self.network.lines.get_mut(&id) else { return };
        if line.is_broken {
            return;
        }
        line.is_joined = true;
        let (from, to, sender) = (line.from, line.to, line.sender);
        let older = self.network.lines_of(|line| {
            let is_same = line.from == from || line.sender != sender;
            line.to.node == to.node && line.from.node == from.node && is_same
        });
        let older: Vec<LineId> = older.into_iter().filter(|other| *other < id).collect();
        if !older.is_empty() {
            self.coverage.mark("peer rejoined");
        }
        for other in older {
            self.end_line(other);
        }
        self.feed(to, Event::PeerJoined { peer: from.node_id() });
    }

    pub(crate) fn on_line_connected(&mut self, id: LineId) {
        let Some(line) = self.network.lines.get_mut(&id) else { return };
        if line.is_broken {
            return;
        }
        line.is_connected = true;
        let (from, peer) = (line.from, line.to.node_id());
        self.feed(from, Event::PeerConnected { peer });
    }

    pub(crate) fn send_to_peer(&mut self, from: Place, peer: NodeId, parts: &[Bytes]) {
        let bytes = Bytes::from(parts.concat());
        let delay_us = self.peer_delay_us();
        let length = bytes.len();
        let to = World::place_of_peer(peer);
        let id = *self.network.dials.get(&(from, to)).expect("a shard sends to peers that it has named");
        let found = id.and_then(|id| self.network.lines.get_mut(&id).map(|line| (id, line)));
        let Some((id, line)) = found.filter(|(_, line)| line.is_connected && !line.is_broken) else {
            return self.tell_sent(from, to, length);
        };
        let under_way: usize = line.in_flight.iter().map(|frame| frame.bytes.len()).sum();
        let is_told = under_way < SOCKET_BYTES;
        line.last_us = line.last_us.max(self.now_us + delay_us);
        let due_us = line.last_us;
        line.in_flight.push_back(Frame { due_us, bytes, is_told });
        self.schedule_at(due_us, None, Happening::FrameDue(id));
        if is_told {
            self.tell_sent(from, to, length);
        }
    }

    /// The socket took bytes, or the connection dropped them.
    fn tell_sent(&mut self, from: Place, to: usize, bytes: usize) {
        let delay_us = self.random.delay_us(100);
        let what = Happening::PeerSent { from, to, bytes };
        self.schedule_at_node(delay_us, from.node, what);
    }

    pub(crate) fn on_frame_due(&mut self, id: LineId) {
        loop {
            let Some(line) = self.network.lines.get(&id) else { return };
            let (from, to) = (line.from, line.to);
            let is_there = self.nodes[to.node].incarnation() == Some(line.receiver) && line.is_joined;
            if !is_there || !self.network.is_open(from.node, to.node) {
                return;
            }
            if self.nodes[to.node].paused_until_us > self.now_us {
                // What waits in sockets is read piece by piece.
                let until_us = self.nodes[to.node].paused_until_us + self.random.delay_us(100_000);
                return self.schedule_at(until_us, None, Happening::FrameDue(id));
            }
            let is_sender_there = self.nodes[from.node].incarnation() == Some(line.sender);
            let line = self.network.lines.get_mut(&id).expect("it was just seen");
            let Some(frame) = line.in_flight.pop_front_if(|frame| frame.due_us <= self.now_us) else {
                return;
            };
            if !frame.is_told && is_sender_there {
                self.tell_sent(from, to.node, frame.bytes.len());
            }
            self.feed(to, Event::FromPeer { peer: from.node_id(), frame: frame.bytes });
        }
    }

    /// A connection breaks: what is in flight arrives up to some point. The sender notices after a while.
    pub(crate) fn break_line(&mut self, id: LineId) {
        let Some(line) = self.network.lines.get_mut(&id).filter(|line| !line.is_broken) else { return };
        line.is_broken = true;
        let (from, to, sender) = (line.from, line.to, line.sender);
        let kept = self.random.index(line.in_flight.len() + 1);
        let lost: Vec<Frame> = line.in_flight.drain(kept..).collect();
        if !lost.is_empty() {
            self.coverage.mark("connection broken in flight");
        }
        if self.nodes[from.node].incarnation() != Some(sender) {
            return;
        }
        for frame in lost.iter().filter(|frame| !frame.is_told) {
            self.tell_sent(from, to.node, frame.bytes.len());
        }
        let delay_us = self.random.between(1, 200_000);
        self.schedule_at_node(delay_us, from.node, Happening::LineLost(id));
    }

    /// The sender notices that its connection is gone, and dials again.
    pub(crate) fn on_line_lost(&mut self, id: LineId) {
        let Some(line) = self.network.lines.get(&id) else { return };
        let (from, to, is_connected, receiver) = (line.from, line.to, line.is_connected, line.receiver);
        if self.network.dials.get(&(from, to.node)) != Some(&Some(id)) {
            return;
        }
        self.network.dials.insert((from, to.node), None);
        let rest_us = self.random.between(1_000, 100_000);
        self.schedule_at_node(rest_us, from.node, Happening::Dial { from, to: to.node });
        if is_connected {
            let is_reachable = self.network.is_open_both_ways(from.node, to.node);
            let has_ended = is_reachable && self.nodes[to.node].incarnation() != Some(receiver);
            if has_ended {
                self.coverage.mark("peer ended");
            }
            self.feed(from, Event::PeerDisconnected { peer: to.node_id(), has_ended });
        }
    }

    /// Nothing comes over a connection any more.
    fn end_line(&mut self, id: LineId) {
        self.break_line(id);
        let Some(line) = self.network.lines.get_mut(&id) else { return };
        let (from, to, sender) = (line.from, line.to, line.sender);
        let is_known = self.network.dials.get(&(from, to.node)) == Some(&Some(id));
        let line = self.network.lines.get_mut(&id).expect("it was just seen");
        let lost: Vec<Frame> = line.in_flight.drain(..).collect();
        if self.nodes[from.node].incarnation() == Some(sender) {
            for frame in lost.iter().filter(|frame| !frame.is_told) {
                self.tell_sent(from, to.node, frame.bytes.len());
            }
        }
        // Its sender has still to notice.
        if !is_known {
            self.network.lines.remove(&id);
        }
    }

    /// The process of a node has ended: its own connections carry what is under way, those to it break.
    pub(crate) fn end_lines_of(&mut self, node: usize) {
        self.network.dials.retain(|(from, _), _| from.node != node);
        for id in self.network.lines_of(|line| line.from.node == node || line.to.node == node) {
            self.break_line(id);
            let line = &self.network.lines[&id];
            if line.to.node == node {
                self.end_line(id);
            }
        }
    }

    /// Breaks the connections between two nodes.
    pub(crate) fn reset_lines(&mut self, one: usize, other: usize) {
        let between = |line: &Line| {
            let ends = (line.from.node, line.to.node);
            ends == (one, other) || ends == (other, one)
        };
        for id in self.network.lines_of(between) {
            if self.random.percent(70) {
                self.break_line(id);
            }
        }
    }

    /// Closes ways. Connections that need them break after a while.
    pub(crate) fn cut(&mut self, pairs: &[(usize, usize)]) {
        for (from, to) in pairs {
            *self.network.closed.entry((*from, *to)).or_default() += 1;
        }
        let is_cut = |line: &Line| {
            pairs.contains(&(line.from.node, line.to.node)) || pairs.contains(&(line.to.node, line.from.node))
        };
        for id in self.network.lines_of(is_cut) {
            let timeout_us = self.random.between(100_000, TIMEOUT_US_MAX);
            self.schedule(timeout_us, None, Happening::LineTimedOut(id));
        }
    }

    pub(crate) fn on_line_timed_out(&mut self, id: LineId) {
        let Some(line) = self.network.lines.get(&id) else { return };
        if !self.network.is_open_both_ways(line.from.node, line.to.node) {
            self.break_line(id);
        }
    }

    /// Opens ways again, as far as no other cut closes them. What was held up on the way arrives.
    pub(crate) fn mend(&mut self, pairs: &[(usize, usize)]) {
        for pair in pairs {
            if let Some(cuts) = self.network.closed.get_mut(pair) {
                *cuts -= 1;
                if *cuts == 0 {
                    self.network.closed.remove(pair);
                }
            }
        }
        for id in self.network.lines_of(|line| !line.in_flight.is_empty()) {
            let delay_us = self.random.delay_us(200_000);
            self.schedule(delay_us, None, Happening::FrameDue(id));
        }
    }

    /// Opens all ways.
    pub(crate) fn mend_all(&mut self) {
        self.network.slow_until_us = 0;
        let pairs: Vec<(usize, usize)> = std::mem::take(&mut self.network.closed).into_keys().collect();
        self.mend(&pairs);
    }

    pub(crate) fn slow_network(&mut self, for_us: u64) {
        self.network.slow_until_us = self.now_us + for_us;
    }
}
