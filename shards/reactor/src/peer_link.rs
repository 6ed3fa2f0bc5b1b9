//! The connections of one shard to other nodes: dialled by this side, and written to only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, pending, poll_fn};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Shutdown, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use shard::{Event, PeerAddress};
use socket2::SockRef;
use types::{DirectoryId, NodeId, ShardId};

use crate::core::ShardCore;
use crate::driver::Driver;
use crate::metrics::PeerMetrics;
use crate::notify::Notify;
use crate::peer_frame::frame_header;
use crate::peer_handshake::{DialError, Dialled, dial};
use crate::peer_identity::Identity;
use crate::peer_incoming::IncomingPeers;

/// Parts of one gathered send.
const SEND_PARTS_MAX: usize = 256;

/// The rest before a peer that was not reached is called again: doubled each time, up to the second one. A peer that calls is
/// there, and is called at once.
const DIAL_REST_MIN: Duration = Duration::from_millis(50);
const DIAL_REST_MAX: Duration = Duration::from_secs(1);

/// How long a lost connection may stay untold while it is found out whether its peer's process has ended.
const LOSS_UNTOLD_MAX: Duration = Duration::from_millis(200);

/// The rest before such a peer is called again whose port was still open, but not answered by anybody.
const REDIAL_REST: Duration = Duration::from_millis(10);

/// The other nodes, as one shard is connected with them.
pub(crate) struct Peers {
    shard: ShardId,
    pub(crate) identity: Arc<Identity>,
    links: RefCell<BTreeMap<NodeId, Rc<PeerLink>>>,
    /// Links with something to send since the last step.
    dirty: RefCell<Vec<Rc<PeerLink>>>,
    pub(crate) incoming: IncomingPeers,
    pub(crate) tasks: Cell<usize>,
    pub(crate) task_ended: Notify,
}

/// The way to one peer. Its task lives until the peer leaves the set or the node ends; it dials, holds the connection
/// until it is lost, and dials again.
struct PeerLink {
    address: PeerAddress,
    shard: ShardId,
    is_wanted: Cell<bool>,
    /// The peer has called since it was last called.
    has_called: Cell<bool>,
    socket: RefCell<Option<Rc<PollableFd<TcpStream>>>>,
    /// The peer's data directory, as it said when it last took the call.
    directory_id: Cell<Option<DirectoryId>>,
    /// The shard was told that the connection is up, and not that it is gone.
    is_told_up: Cell<bool>,
    is_broken: Cell<bool>,
    is_dirty: Cell<bool>,
    is_write_blocked: Cell<bool>,
    outgoing: RefCell<VecDeque<Part>>,
    /// Bytes of bodies in `outgoing`.
    queued_bytes: Cell<usize>,
    metrics: PeerMetrics,
    wake: Notify,
}

/// A piece of a frame on its way out.
struct Part {
    bytes: Bytes,
    is_header: bool,
}

/// What the socket took.
#[derive(Debug, Default)]
struct Taken {
    wire_bytes: usize,
    body_bytes: usize,
}

impl Peers {
    pub(crate) fn new(shard: ShardId, identity: Arc<Identity>) -> Peers {
        Peers {
            shard,
            identity,
            links: RefCell::default(),
            dirty: RefCell::default(),
            incoming: IncomingPeers::new(),
            tasks: Cell::new(0),
            task_ended: Notify::default(),
        }
    }

    pub(crate) fn on_task_begun(&self) {
        self.tasks.set(self.tasks.get() + 1);
    }

    pub(crate) fn on_task_ended(&self) {
        self.tasks.set(self.tasks.get() - 1);
        self.task_ended.notify();
    }

    /// A peer has called: it is there.
    pub(crate) fn on_called(&self, peer: NodeId) {
        if let Some(link) = self.links.borrow().get(&peer) {
            link.has_called.set(true);
            link.wake.notify();
        }
    }

    fn mark_dirty(&self, link: &Rc<PeerLink>) {
        if !link.is_dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(link));
        }
    }
}

impl PeerLink {
    fn new(address: PeerAddress, shard: ShardId) -> PeerLink {
        PeerLink {
            metrics: PeerMetrics::new(shard, address.node),
            address,
            shard,
            is_wanted: Cell::new(true),
            has_called: Cell::new(false),
            socket: RefCell::default(),
            directory_id: Cell::new(None),
            is_told_up: Cell::new(false),
            is_broken: Cell::new(false),
            is_dirty: Cell::new(false),
            is_write_blocked: Cell::new(false),
            outgoing: RefCell::default(),
            queued_bytes: Cell::new(0),
            wake: Notify::default(),
        }
    }

    fn is_connected(&self) -> bool {
        self.socket.borrow().is_some()
    }

    fn set_queued(&self, bytes: usize) {
        self.queued_bytes.set(bytes);
        self.metrics.queued_bytes.set(bytes as f64);
    }

    fn push(&self, parts: Vec<Bytes>, body_bytes: usize) {
        let mut outgoing = self.outgoing.borrow_mut();
        outgoing.push_back(Part { bytes: frame_header(&parts), is_header: true });
        // An empty part would make a send that takes nothing look like progress.
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        outgoing.extend(parts.map(|bytes| Part { bytes, is_header: false }));
        self.set_queued(self.queued_bytes.get() + body_bytes);
    }

    /// Gives the socket what it takes. Says whether that was everything.
    fn send(&self, socket: &TcpStream, taken: &mut Taken) -> io::Result<bool> {
        let mut outgoing = self.outgoing.borrow_mut();
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SEND_PARTS_MAX];
            let count = outgoing.len().min(SEND_PARTS_MAX);
            for (slice, part) in slices.iter_mut().zip(outgoing.iter()) {
                *slice = IoSlice::new(&part.bytes);
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match SockRef::from(socket).send_vectored_with_flags(&slices[..count], flags) {
                Ok(sent) => {
                    taken.wire_bytes += sent;
                    taken.body_bytes += self.forget_front(&mut outgoing, sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Takes `bytes` off the front of the queue. Says how many of them belonged to bodies.
    fn forget_front(&self, outgoing: &mut VecDeque<Part>, mut bytes: usize) -> usize {
        let mut body_bytes = 0;
        while let Some(front) = outgoing.front_mut() {
            let now = bytes.min(front.bytes.len());
            front.bytes.advance(now);
            bytes -= now;
            if !front.is_header {
                body_bytes += now;
            }
            if !front.bytes.is_empty() {
                break;
            }
            if front.is_header {
                self.metrics.frames_sent.increment(1);
            }
            outgoing.pop_front();
        }
        assert_eq!(bytes, 0, "a socket takes no more than it is given");
        body_bytes
    }

    /// Begins to call the peer, on a thread of its own: looking up a name and connecting block.
    fn begin_dial(&self, identity: &Arc<Identity>) -> async_channel::Receiver<Result<Dialled, DialError>> {
        let (sender, outcome) = async_channel::bounded(1);
        let (address, hello) = (self.address.clone(), identity.hello(self.address.node, self.shard));
        let (to_shard, identity) = (sender.clone(), Arc::clone(identity));
        let run = move || {
            let outcome = dial(&address, &hello).and_then(|dialled| {
                identity.recognise_callee(address.node, dialled.directory_id).map(|()| dialled)
            });
            // Nobody waits for it any more when the peer left the set meanwhile.
            let _ = to_shard.try_send(outcome);
        };
        if let Err(error) = thread::Builder::new().name("peer-dial".to_owned()).spawn(run) {
            sender
                .try_send(Err(DialError::Unreachable(error)))
                .expect("it has room, and its receiver is here");
        }
        outcome
    }

    /// Waits for `work`; `None` when the link is not wanted any more or the time is over.
    async fn within<T>(&self, time: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let mut timer = pin!(time.map(Timer::new));
        poll_fn(|context| {
            // Until it is registered; what it was notified of may have been seen before.
            while self.wake.poll(context).is_ready() {}
            if !self.is_wanted.get() {
                return Poll::Ready(None);
            }
            // Before the timer, which registers again each time it is polled.
            if let Poll::Ready(result) = work.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            timer.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(context).map(|_| None))
        })
        .await
    }

    async fn rest(&self, time: Duration) {
        let _ = self.within(Some(time), pending::<()>()).await;
    }

    /// Rests until the peer calls, or the time is over. Says whether it has called.
    async fn rest_until_called(&self, time: Duration) -> bool {
        let has_called = || if self.has_called.get() { Poll::Ready(()) } else { Poll::Pending };
        self.within(Some(time), poll_fn(|_| has_called())).await.is_some()
    }

    /// Waits until the connection is of no use any more: an idle one is watched for its end too.
    async fn lost(&self, socket: &PollableFd<TcpStream>) {
        loop {
            let mut state = PollState::new();
            poll_fn(|context| {
                if self.wake.poll(context).is_ready() {
                    return Poll::Ready(());
                }
                // An error shows again in the read that follows.
                socket.poll_readable(context, &mut state).map(|_| ())
            })
            .await;
            if self.is_broken.get() || !self.is_wanted.get() {
                return;
            }
            match socket.get_ref().read(&mut [0]) {
                Ok(0) => return,
                Ok(_) => {
                    let peer = self.address.node;
                    return tracing::warn!("node {peer} answers where it has only to listen: disconnected");
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(_) => return,
            }
        }
    }
}

/// What the shard wants.
impl<C: ShardCore> Driver<C> {
    pub(crate) fn set_peers(self: &Rc<Self>, peers: Vec<PeerAddress>) {
        let nodes: BTreeSet<NodeId> = peers.iter().map(|peer| peer.node).collect();
        assert!(!nodes.contains(&self.peers.identity.node()), "a node is no peer of itself");
        // First, so that none that is on its way from the listener comes in afterwards.
        self.peers.identity.set_peers(nodes.clone());
        self.drop_incoming(|peer| !nodes.contains(&peer));
        let is_kept = |link: &PeerLink| peers.contains(&link.address);
        self.drop_links(|link| !is_kept(link));
        for address in peers {
            if self.peers.links.borrow().contains_key(&address.node) {
                continue;
            }
            let link = Rc::new(PeerLink::new(address, self.peers.shard));
            self.peers.links.borrow_mut().insert(link.address.node, Rc::clone(&link));
            self.peers.on_task_begun();
            glommio::spawn_local(Rc::clone(self).run_link(link)).detach();
        }
    }

    /// Talks no more, in neither direction, to nodes that come with other data directories than these.
    pub(crate) fn know_directories(&self, directories: Vec<(NodeId, Option<DirectoryId>)>) {
        let identity = &self.peers.identity;
        identity.know_directories(directories);
        self.drop_strangers();
        for link in self.peers.links.borrow().values().filter(|link| link.is_connected()) {
            let directory_id = link.directory_id.get().expect("a peer that took the call has said it");
            if identity.recognise(link.address.node, directory_id).is_err() {
                link.is_broken.set(true);
                link.wake.notify();
            }
        }
    }

    fn drop_links(&self, is_dropped: impl Fn(&PeerLink) -> bool) {
        let dropped: Vec<_> =
            self.peers.links.borrow_mut().extract_if(.., |_, link| is_dropped(link)).collect();
        for (_, link) in dropped {
            link.is_wanted.set(false);
            self.disconnect_link(&link);
            self.tell_down(&link, false);
            link.wake.notify();
        }
    }

    pub(crate) fn send_to_peer(&self, to: NodeId, parts: Vec<Bytes>) {
        let body_bytes = parts.iter().map(Bytes::len).sum();
        let link = self.peers.links.borrow().get(&to).filter(|link| link.is_connected()).cloned();
        match link {
            Some(link) => {
                link.push(parts, body_bytes);
                self.peers.mark_dirty(&link);
            }
            None => self.tell_sent(to, body_bytes),
        }
    }

    fn tell_sent(&self, peer: NodeId, bytes: usize) {
        if bytes > 0 {
            self.enqueue(Event::PeerSent { peer, bytes });
        }
    }

    fn tell_down(&self, link: &PeerLink, has_ended: bool) {
        if link.is_told_up.replace(false) {
            self.enqueue(Event::PeerDisconnected { peer: link.address.node, has_ended });
        }
    }
}

/// Connecting.
impl<C: ShardCore> Driver<C> {
    async fn run_link(self: Rc<Self>, link: Rc<PeerLink>) {
        let identity = &self.peers.identity;
        let mut rest = DIAL_REST_MIN;
        // A loss that the shard does not know yet, and until when it may wait for the outcome of the next call.
        let mut untold_until: Option<Instant> = None;
        while link.is_wanted.get() {
            link.has_called.set(false);
            let dialled = link.begin_dial(identity);
            let mut outcome = self.dial_outcome(&link, untold_until, &dialled).await;
            if let Some(until) = untold_until {
                // The port of a process that ends may still be open for a moment.
                if matches!(outcome, Some(Err(DialError::Broken(_)))) && Instant::now() < until {
                    link.rest(REDIAL_REST).await;
                    continue;
                }
                self.tell_down(&link, matches!(outcome, Some(Err(DialError::ConnectionRefused(_)))));
                self.run();
                untold_until = None;
                if outcome.is_none() {
                    outcome = self.dial_outcome(&link, None, &dialled).await;
                }
            }
            match outcome {
                Some(Ok(dialled)) => {
                    rest = DIAL_REST_MIN;
                    self.hold_link(&link, dialled).await;
                    untold_until = Some(Instant::now() + LOSS_UNTOLD_MAX);
                }
                Some(Err(failure)) => {
                    identity.log_failure(&link.address, &failure);
                    let has_called = link.rest_until_called(rest).await;
                    rest = if has_called { DIAL_REST_MIN } else { DIAL_REST_MAX.min(2 * rest) };
                }
                // Not wanted any more.
                None => {}
            }
        }
        self.peers.on_task_ended();
    }

    /// What came of a call; `None` when the link is not wanted any more, or the time is over.
    async fn dial_outcome(
        &self,
        link: &PeerLink,
        until: Option<Instant>,
        dialled: &async_channel::Receiver<Result<Dialled, DialError>>,
    ) -> Option<Result<Dialled, DialError>> {
        let time = until.map(|until| until.saturating_duration_since(Instant::now()));
        let outcome = link.within(time, dialled.recv()).await?;
        Some(
            outcome
                .unwrap_or_else(|_| Err(DialError::Unreachable(io::Error::other("the call was given up")))),
        )
    }

    /// Lets the shard send over a connection until it is lost.
    async fn hold_link(self: &Rc<Self>, link: &Rc<PeerLink>, dialled: Dialled) {
        // It may have become known meanwhile.
        let recognised = self.peers.identity.recognise(link.address.node, dialled.directory_id);
        if let Err(stranger) = recognised {
            self.peers.identity.log_failure(&link.address, &stranger.into());
            return link.rest(DIAL_REST_MAX).await;
        }
        link.directory_id.set(Some(dialled.directory_id));
        let socket = match PollableFd::new(dialled.stream) {
            Ok(socket) => Rc::new(socket),
            Err(error) => {
                let failure = DialError::Unreachable(io::Error::other(error.to_string()));
                self.peers.identity.log_failure(&link.address, &failure);
                return link.rest(DIAL_REST_MAX).await;
            }
        };
        self.peers.identity.log_reached(&link.address);
        link.socket.replace(Some(Rc::clone(&socket)));
        link.is_broken.set(false);
        link.is_told_up.set(true);
        link.metrics.connected.set(1.0);
        self.feed(Event::PeerConnected { peer: link.address.node });
        link.lost(&socket).await;
        self.disconnect_link(link);
        self.run();
    }

    /// Closes the connection, if there is one, and drops what it was to send.
    fn disconnect_link(&self, link: &PeerLink) {
        let Some(socket) = link.socket.take() else { return };
        // Fails only when the peer was first. The descriptor closes with the task that polls it.
        let _ = socket.get_ref().shutdown(Shutdown::Both);
        link.is_write_blocked.set(false);
        link.outgoing.take();
        let dropped_bytes = link.queued_bytes.get();
        link.set_queued(0);
        link.metrics.connected.set(0.0);
        self.tell_sent(link.address.node, dropped_bytes);
    }

    /// Disconnects all peers, both ways, and waits for their tasks.
    pub(crate) async fn close_peers(self: &Rc<Self>) {
        self.drop_links(|_| true);
        self.drop_incoming(|_| true);
        while self.peers.tasks.get() > 0 {
            self.peers.task_ended.notified().await;
        }
    }
}

/// Sending.
impl<C: ShardCore> Driver<C> {
    /// Sends what the last steps have brought. Says whether there was anything.
    pub(crate) fn send_to_peers(self: &Rc<Self>) -> bool {
        let dirty = self.peers.dirty.take();
        let is_any = !dirty.is_empty();
        for link in dirty {
            link.is_dirty.set(false);
            let socket = link.socket.borrow().clone();
            if let Some(socket) = socket
                && !link.is_write_blocked.get()
                && !link.is_broken.get()
            {
                self.send_link(&link, socket);
            }
        }
        is_any
    }

    fn send_link(self: &Rc<Self>, link: &Rc<PeerLink>, socket: Rc<PollableFd<TcpStream>>) {
        let mut taken = Taken::default();
        let outcome = link.send(socket.get_ref(), &mut taken);
        link.metrics.bytes_sent.increment(taken.wire_bytes as u64);
        link.set_queued(link.queued_bytes.get() - taken.body_bytes);
        self.tell_sent(link.address.node, taken.body_bytes);
        match outcome {
            Ok(true) => {}
            Ok(false) => {
                link.is_write_blocked.set(true);
                self.peers.on_task_begun();
                glommio::spawn_local(Rc::clone(self).run_blocked_link(Rc::clone(link), socket)).detach();
            }
            Err(_) => {
                link.is_broken.set(true);
                link.wake.notify();
            }
        }
    }

    /// Goes on sending when the socket takes bytes again.
    async fn run_blocked_link(self: Rc<Self>, link: Rc<PeerLink>, socket: Rc<PollableFd<TcpStream>>) {
        // An error shows again in the send that follows.
        let _ = socket.writable().await;
        let is_current = link.socket.borrow().as_ref().is_some_and(|current| Rc::ptr_eq(current, &socket));
        drop(socket);
        if is_current {
            link.is_write_blocked.set(false);
            self.peers.mark_dirty(&link);
            self.run();
        }
        self.peers.on_task_ended();
    }
}
