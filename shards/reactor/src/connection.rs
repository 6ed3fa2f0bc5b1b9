//! The client connections of one shard.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use glommio::io::{PollState, PollableFd};
use glommio::timer::Timer;
use shard::Event;
use socket2::SockRef;
use types::ConnectionId;
use types::limits::REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX;

use crate::clock::to_us;
use crate::core::ShardCore;
use crate::driver::Driver;
use crate::frame::FrameAssembler;
use crate::metrics::CloseReason;
use crate::notify::Notify;

/// One receive through the shard's common buffer.
pub(crate) const SCRATCH_BYTES: usize = 64 * 1024;

/// Bytes received from one connection before the others have their turn.
pub(crate) const RECEIVE_BYTES_PER_TURN: usize = 512 * 1024;

/// Connections accepted before the others have their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// Parts of one gathered send.
const SEND_PARTS_MAX: usize = 64;

/// How long a listener rests when the process is out of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Bytes of incomplete requests, over all connections, from which on only one connection at a time receives for a
/// large one. Beyond it there are at most that request, small ones, and what one receive adds.
const FRAME_BYTES_MAX: usize = REQUEST_BYTES_IN_FLIGHT_PER_SHARD_MAX;

/// Bytes of small incomplete requests that are received even then, so that clients that hold all memory with large
/// requests keep only each other waiting.
const SMALL_FRAMES_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How long a client may leave a request half sent while others wait for the memory.
const STALL_US_MAX: u64 = 5_000_000;

/// How long the one connection that receives beyond [`FRAME_BYTES_MAX`] may take for its request.
const OVERDRAFT_US_MAX: u64 = 30_000_000;

/// The idle time is looked at this many times per `connections.max.idle.ms`.
const IDLE_SWEEPS: u64 = 16;

/// All connections of a shard.
pub(crate) struct Connections {
    count_max: usize,
    request_bytes_max: usize,
    idle_us_max: u64,
    open: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    next_id: Cell<u64>,
    scratch: RefCell<Vec<u8>>,
    /// Connections with something to send or to be closed since the last step.
    dirty: RefCell<Vec<Rc<Connection>>>,
    frame_bytes: Cell<usize>,
    /// The part of `frame_bytes` that belongs to small requests.
    small_frame_bytes: Cell<usize>,
    /// The connection that completes its request beyond the bound, and its deadline.
    overdraft: RefCell<Option<(Rc<Connection>, u64)>>,
    waiting_for_memory: RefCell<Vec<Rc<Connection>>>,
    /// When stalled requests are looked for next; set while connections wait for memory.
    stalls_us: Cell<Option<u64>>,
    sweep_us: Cell<Option<u64>>,
    tasks: Cell<usize>,
    task_ended: Notify,
}

/// One connection. Its task lives until the socket is shut down; it is in [`Connections::open`] until
/// [`Event::Disconnected`] is on its way.
struct Connection {
    id: ConnectionId,
    socket: PollableFd<TcpStream>,
    is_open: Cell<bool>,
    /// The shard takes requests.
    is_reading: Cell<bool>,
    /// It takes no more requests and is to be closed once everything is sent, for this reason.
    closing: Cell<Option<CloseReason>>,
    is_dirty: Cell<bool>,
    is_write_blocked: Cell<bool>,
    waits_for_memory: Cell<bool>,
    assembler: RefCell<FrameAssembler>,
    /// Received, but not cut into requests, because the shard does not take any at the moment.
    stash: RefCell<Vec<u8>>,
    /// What this connection contributes to [`Connections::frame_bytes`].
    frame_bytes: Cell<usize>,
    /// What this connection contributes to [`Connections::small_frame_bytes`].
    small_frame_bytes: Cell<usize>,
    /// When it last received anything.
    received_us: Cell<u64>,
    outgoing: RefCell<VecDeque<Bytes>>,
    /// When it last completed a request or took part of a response.
    active_us: Cell<u64>,
    wake: Notify,
}

/// What one receive brought.
pub(crate) enum Received {
    /// The peer will send no more.
    End,
    Bytes {
        count: usize,
        is_drained: bool,
    },
}

enum Sent {
    All { bytes: usize },
    Blocked { bytes: usize },
    Broken,
}

impl Connections {
    pub(crate) fn new(count_max: usize, request_bytes_max: usize, idle_max: Duration) -> Connections {
        Connections {
            count_max,
            request_bytes_max,
            idle_us_max: to_us(idle_max),
            open: RefCell::default(),
            next_id: Cell::new(0),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES]),
            dirty: RefCell::default(),
            frame_bytes: Cell::new(0),
            small_frame_bytes: Cell::new(0),
            overdraft: RefCell::default(),
            waiting_for_memory: RefCell::default(),
            stalls_us: Cell::new(None),
            sweep_us: Cell::new(None),
            tasks: Cell::new(0),
            task_ended: Notify::default(),
        }
    }

    fn get(&self, id: ConnectionId) -> Option<Rc<Connection>> {
        self.open.borrow().get(&id).cloned()
    }

    fn mark_dirty(&self, connection: &Rc<Connection>) {
        if !connection.is_dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(connection));
        }
    }

    fn holds_overdraft(&self, connection: &Connection) -> bool {
        self.overdraft.borrow().as_ref().is_some_and(|(holder, _)| holder.id == connection.id)
    }

    /// When [`Driver::on_connections_deadline`] is to be called.
    fn deadline_us(&self) -> Option<u64> {
        let overdraft_us = self.overdraft.borrow().as_ref().map(|(_, deadline_us)| *deadline_us);
        [self.sweep_us.get(), self.stalls_us.get(), overdraft_us].into_iter().flatten().min()
    }
}

impl Connection {
    fn takes_requests(&self) -> bool {
        self.is_open.get() && self.is_reading.get() && self.closing.get().is_none()
    }

    fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Waits until there is something to receive, or the state of the connection has changed.
    async fn readable(&self) {
        let mut state = PollState::new();
        poll_fn(|context| {
            if self.wake.poll(context).is_ready() {
                return Poll::Ready(());
            }
            let wants_bytes = self.takes_requests() && !self.waits_for_memory.get();
            // An error shows again in the receive that follows.
            if wants_bytes && self.socket.poll_readable(context, &mut state).is_ready() {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    fn send(&self) -> Sent {
        let mut outgoing = self.outgoing.borrow_mut();
        let mut bytes = 0;
        while !outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SEND_PARTS_MAX];
            let count = outgoing.len().min(SEND_PARTS_MAX);
            for (slice, part) in slices.iter_mut().zip(outgoing.iter()) {
                *slice = IoSlice::new(part);
            }
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            match SockRef::from(self.stream()).send_vectored_with_flags(&slices[..count], flags) {
                Ok(sent) => {
                    bytes += sent;
                    forget_front(&mut outgoing, sent);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::Blocked { bytes },
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Sent::Broken,
            }
        }
        Sent::All { bytes }
    }
}

fn forget_front(parts: &mut VecDeque<Bytes>, mut bytes: usize) {
    while let Some(front) = parts.front_mut() {
        let now = bytes.min(front.len());
        front.advance(now);
        bytes -= now;
        if !front.is_empty() {
            break;
        }
        parts.pop_front();
    }
    assert_eq!(bytes, 0, "a socket takes no more than it is given");
}

/// Accepting, and the life of a connection's task.
impl<C: ShardCore> Driver<C> {
    /// Accepts clients until it is cancelled.
    pub(crate) async fn run_listener(self: Rc<Self>, listener: PollableFd<TcpListener>) {
        loop {
            if let Err(error) = listener.readable().await {
                tracing::warn!(shard = %self.shard, "cannot wait for connections: {error}");
                Timer::new(ACCEPT_REST).await;
            }
            for _ in 0..ACCEPTS_PER_TURN {
                match listener.get_ref().accept() {
                    Ok((stream, _)) => self.on_accepted(stream),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        tracing::warn!(shard = %self.shard, "cannot accept connections: {error}");
                        Timer::new(ACCEPT_REST).await;
                        break;
                    }
                }
            }
        }
    }

    fn on_accepted(self: &Rc<Self>, stream: TcpStream) {
        if self.connections.open.borrow().len() >= self.connections.count_max {
            self.metrics.connections_refused.increment(1);
            return;
        }
        let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        let Ok(peer) = prepared.and_then(|()| stream.peer_addr()) else {
            // The client has gone again.
            return;
        };
        let Ok(socket) = PollableFd::new(stream) else { return };
        let id = ConnectionId(self.connections.next_id.replace(self.connections.next_id.get() + 1));
        let connection = Rc::new(Connection {
            id,
            socket,
            is_open: Cell::new(true),
            is_reading: Cell::new(true),
            closing: Cell::new(None),
            is_dirty: Cell::new(false),
            is_write_blocked: Cell::new(false),
            waits_for_memory: Cell::new(false),
            assembler: RefCell::new(FrameAssembler::new(self.connections.request_bytes_max)),
            stash: RefCell::default(),
            frame_bytes: Cell::new(0),
            small_frame_bytes: Cell::new(0),
            received_us: Cell::new(self.clock.mono_us()),
            outgoing: RefCell::default(),
            active_us: Cell::new(self.clock.mono_us()),
            wake: Notify::default(),
        });
        self.connections.open.borrow_mut().insert(id, Rc::clone(&connection));
        self.metrics.connections_accepted.increment(1);
        self.metrics.connections.increment(1.0);
        self.ensure_sweep();
        self.feed(Event::Connected { connection: id, client_host: format!("/{}", peer.ip().to_canonical()) });
        self.connections.tasks.set(self.connections.tasks.get() + 1);
        glommio::spawn_local(Rc::clone(self).run_connection(connection)).detach();
    }

    async fn run_connection(self: Rc<Self>, connection: Rc<Connection>) {
        while connection.is_open.get() {
            connection.readable().await;
            self.receive(&connection);
        }
        drop(connection);
        self.connections.tasks.set(self.connections.tasks.get() - 1);
        self.connections.task_ended.notify();
    }

    /// Takes a connection out and shuts it down; its last event follows.
    fn disconnect(&self, connection: &Rc<Connection>, reason: CloseReason) {
        if !connection.is_open.replace(false) {
            return;
        }
        self.connections.open.borrow_mut().remove(&connection.id);
        connection.outgoing.take();
        connection.stash.take();
        connection.assembler.replace(FrameAssembler::new(0));
        self.recount(connection);
        self.end_overdraft(connection);
        // The descriptor closes with the task, after its poll is cancelled; the peer need not wait for that. It fails
        // only when the peer was first.
        let _ = connection.stream().shutdown(Shutdown::Both);
        connection.wake.notify();
        self.metrics.connections.decrement(1.0);
        self.metrics.closed(reason).increment(1);
        self.enqueue(Event::Disconnected { connection: connection.id });
    }

    fn log_close(&self, connection: &Connection, why: &str) {
        let client = connection.stream().peer_addr().ok();
        tracing::warn!(shard = %self.shard, ?client, "closing a connection: {why}");
    }

    /// Closes all connections, after one more attempt to send what they wait for.
    pub(crate) async fn close_connections(self: &Rc<Self>) {
        let open: Vec<_> = self.connections.open.borrow().values().cloned().collect();
        for connection in open {
            connection.send();
            self.disconnect(&connection, CloseReason::Stop);
        }
        while self.connections.tasks.get() > 0 {
            self.connections.task_ended.notified().await;
        }
    }
}

/// Errors that `accept` reports about a connection that is already gone, as accept(2) lists them.
fn is_of_one_connection(error: &io::Error) -> bool {
    let of_network = [
        libc::ENETDOWN,
        libc::EPROTO,
        libc::ENOPROTOOPT,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::EHOSTUNREACH,
        libc::EOPNOTSUPP,
        libc::ENETUNREACH,
    ];
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted)
        || error.raw_os_error().is_some_and(|code| of_network.contains(&code))
}

/// Receiving.
impl<C: ShardCore> Driver<C> {
    pub(crate) fn set_reading(&self, id: ConnectionId, reading: bool) {
        if let Some(connection) = self.connections.get(id)
            && connection.is_reading.replace(reading) != reading
        {
            connection.wake.notify();
        }
    }

    fn receive(self: &Rc<Self>, connection: &Rc<Connection>) {
        self.hold_responses(|| {
            self.take_stash(connection);
            let mut budget = RECEIVE_BYTES_PER_TURN;
            while connection.takes_requests() && budget > 0 && self.has_memory_for(connection) {
                match self.receive_once(connection, budget) {
                    Ok(Received::Bytes { count, is_drained }) => {
                        connection.received_us.set(self.clock.mono_us());
                        // What came through the common buffer may be more.
                        budget = budget.saturating_sub(count);
                        if is_drained {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(Received::End) | Err(_) => self.disconnect(connection, CloseReason::Client),
                }
            }
        });
    }

    /// Receives once: into the frame that has begun if it is large, otherwise through the common buffer.
    fn receive_once(self: &Rc<Self>, connection: &Rc<Connection>, budget: usize) -> io::Result<Received> {
        let mut assembler = connection.assembler.borrow_mut();
        if let Some(room) = assembler.room() {
            let room_bytes = room.len().min(budget);
            let room: &mut [MaybeUninit<u8>] = &mut room[..room_bytes];
            let count = SockRef::from(connection.stream()).recv(room)?;
            // SAFETY: `recv` returned that it wrote the first `count` bytes of `room`, which begins where the slice
            // that `FrameAssembler::room` returned last begins.
            let frame = unsafe { assembler.filled(count) };
            drop(assembler);
            self.recount(connection);
            self.metrics.received_bytes.increment(count as u64);
            if let Some(frame) = frame {
                self.on_frame(connection, frame);
            }
            return Ok(received(count, room_bytes));
        }
        drop(assembler);
        let mut scratch = self.connections.scratch.take();
        let outcome = connection.stream().read(&mut scratch);
        if let Ok(count) = outcome {
            self.metrics.received_bytes.increment(count as u64);
            self.take_frames(connection, &scratch[..count]);
        }
        let scratch_bytes = scratch.len();
        self.connections.scratch.replace(scratch);
        Ok(received(outcome?, scratch_bytes))
    }

    /// Cuts `input` into requests, for as long as the shard takes them.
    fn take_frames(self: &Rc<Self>, connection: &Rc<Connection>, mut input: &[u8]) {
        while !input.is_empty() && connection.takes_requests() {
            let taken = connection.assembler.borrow_mut().take(&mut input);
            match taken {
                Ok(Some(frame)) => self.on_frame(connection, frame),
                Ok(None) => {}
                Err(error) => {
                    self.close_in_order(connection, CloseReason::BadFrame, &error.to_string());
                }
            }
        }
        if !input.is_empty() && connection.is_open.get() && connection.closing.get().is_none() {
            connection.stash.borrow_mut().extend_from_slice(input);
        }
        self.recount(connection);
    }

    fn take_stash(self: &Rc<Self>, connection: &Rc<Connection>) {
        if connection.takes_requests() && !connection.stash.borrow().is_empty() {
            let stash = connection.stash.take();
            self.take_frames(connection, &stash);
        }
    }

    fn on_frame(self: &Rc<Self>, connection: &Rc<Connection>, frame: bytes::BytesMut) {
        self.end_overdraft(connection);
        connection.active_us.set(self.clock.mono_us());
        self.metrics.requests.increment(1);
        self.feed(Event::Frame { connection: connection.id, frame });
    }
}

pub(crate) fn received(count: usize, asked: usize) -> Received {
    match count {
        0 => Received::End,
        count => Received::Bytes { count, is_drained: count < asked },
    }
}

/// The bound on incomplete requests, and idle connections.
impl<C: ShardCore> Driver<C> {
    /// Whether the connection may receive now; if not, it is woken when it may.
    fn has_memory_for(&self, connection: &Rc<Connection>) -> bool {
        let connections = &self.connections;
        if connections.frame_bytes.get() < FRAME_BYTES_MAX || connections.holds_overdraft(connection) {
            return true;
        }
        let is_small = !connection.assembler.borrow().is_inside_large_frame();
        if is_small && connections.small_frame_bytes.get() < SMALL_FRAMES_BYTES_MAX {
            return true;
        }
        if connections.overdraft.borrow().is_none() && connection.assembler.borrow().is_inside_frame() {
            // Somebody must come to an end, or all would wait for each other.
            let deadline_us = self.clock.mono_us() + OVERDRAFT_US_MAX;
            connections.overdraft.replace(Some((Rc::clone(connection), deadline_us)));
            self.deadlines.set_connections(connections.deadline_us());
            return true;
        }
        if !connection.waits_for_memory.replace(true) {
            connections.waiting_for_memory.borrow_mut().push(Rc::clone(connection));
            self.ensure_stall_check();
        }
        false
    }

    fn end_overdraft(&self, connection: &Connection) {
        if self.connections.holds_overdraft(connection) {
            self.connections.overdraft.take();
            self.wake_waiting_for_memory();
        }
    }

    /// Brings the shard's sum up to date with what the connection holds.
    fn recount(&self, connection: &Connection) {
        let connections = &self.connections;
        let assembler = connection.assembler.borrow();
        let holds = assembler.allocated_bytes() + connection.stash.borrow().capacity();
        let small = if assembler.is_inside_large_frame() { 0 } else { holds };
        let small_held = connection.small_frame_bytes.replace(small);
        let small_before = connections.small_frame_bytes.get();
        let small_sum = small_before + small - small_held;
        connections.small_frame_bytes.set(small_sum);
        let is_small_room_new = small_before >= SMALL_FRAMES_BYTES_MAX && small_sum < SMALL_FRAMES_BYTES_MAX;
        let held = connection.frame_bytes.replace(holds);
        if held != holds {
            let sum = connections.frame_bytes.get() + holds - held;
            connections.frame_bytes.set(sum);
            self.metrics.frame_bytes.set(sum as f64);
            if sum < FRAME_BYTES_MAX || is_small_room_new {
                self.wake_waiting_for_memory();
            }
        }
    }

    fn wake_waiting_for_memory(&self) {
        for connection in self.connections.waiting_for_memory.take() {
            connection.waits_for_memory.set(false);
            connection.wake.notify();
        }
    }

    fn ensure_stall_check(&self) {
        if self.connections.stalls_us.get().is_none() {
            self.connections.stalls_us.set(Some(self.clock.mono_us() + STALL_US_MAX));
            self.deadlines.set_connections(self.connections.deadline_us());
        }
    }

    /// Closes connections that hold a part of a request and send no more of it, though they may, while others wait for
    /// the memory.
    fn close_stalled(&self, now_us: u64) {
        let connections = &self.connections;
        if connections.waiting_for_memory.borrow().is_empty() {
            return;
        }
        let stalled_since_us = now_us.saturating_sub(STALL_US_MAX);
        let is_stalled = |connection: &&Rc<Connection>| {
            connection.received_us.get() <= stalled_since_us
                && connection.takes_requests()
                && !connection.waits_for_memory.get()
                && connection.assembler.borrow().is_inside_frame()
        };
        let stalled: Vec<_> = connections.open.borrow().values().filter(is_stalled).cloned().collect();
        for connection in stalled {
            self.log_close(&connection, "its request is half sent while memory for requests is short");
            self.disconnect(&connection, CloseReason::Memory);
        }
        if !connections.waiting_for_memory.borrow().is_empty() {
            self.ensure_stall_check();
        }
    }

    fn ensure_sweep(&self) {
        if self.connections.sweep_us.get().is_none() {
            let interval_us = (self.connections.idle_us_max / IDLE_SWEEPS).max(1);
            self.connections.sweep_us.set(Some(self.clock.mono_us() + interval_us));
            self.deadlines.set_connections(self.connections.deadline_us());
        }
    }

    /// Closes what has been idle or has held up the others for too long.
    pub(crate) fn on_connections_deadline(self: &Rc<Self>) {
        let now_us = self.clock.mono_us();
        let overdraft = self.connections.overdraft.borrow().clone();
        if let Some((connection, deadline_us)) = overdraft
            && deadline_us <= now_us
        {
            self.log_close(&connection, "its request takes too long while memory for requests is short");
            self.disconnect(&connection, CloseReason::Memory);
        }
        if self.connections.stalls_us.get().is_some_and(|stalls_us| stalls_us <= now_us) {
            self.connections.stalls_us.set(None);
            self.close_stalled(now_us);
        }
        if self.connections.sweep_us.get().is_some_and(|sweep_us| sweep_us <= now_us) {
            self.connections.sweep_us.set(None);
            let idle_since_us = now_us.saturating_sub(self.connections.idle_us_max);
            let open = self.connections.open.borrow();
            let idle = open.values().filter(|connection| connection.active_us.get() <= idle_since_us);
            let idle: Vec<_> = idle.cloned().collect();
            drop(open);
            for connection in idle {
                self.disconnect(&connection, CloseReason::Idle);
            }
            if !self.connections.open.borrow().is_empty() {
                self.ensure_sweep();
            }
        }
        self.deadlines.set_connections(self.connections.deadline_us());
        self.run();
    }
}

/// Sending.
impl<C: ShardCore> Driver<C> {
    pub(crate) fn respond(&self, id: ConnectionId, parts: Vec<Bytes>) {
        if let Some(connection) = self.connections.get(id) {
            // An empty part would make a send that takes nothing look like progress.
            connection.outgoing.borrow_mut().extend(parts.into_iter().filter(|part| !part.is_empty()));
            self.connections.mark_dirty(&connection);
        }
    }

    pub(crate) fn close_when_sent(&self, id: ConnectionId, reason: &str) {
        if let Some(connection) = self.connections.get(id) {
            self.close_in_order(&connection, CloseReason::Shard, reason);
        }
    }

    /// Closes a connection at once.
    pub(crate) fn abort(&self, id: ConnectionId, reason: &str) {
        if let Some(connection) = self.connections.get(id) {
            self.log_close(&connection, reason);
            self.disconnect(&connection, CloseReason::Memory);
        }
    }

    /// Closes a connection once what it was given is sent.
    fn close_in_order(&self, connection: &Rc<Connection>, reason: CloseReason, why: &str) {
        if connection.closing.get().is_none() {
            connection.closing.set(Some(reason));
            self.log_close(connection, why);
            self.connections.mark_dirty(connection);
        }
    }

    /// Sends what the last steps have brought. Says whether there was anything.
    pub(crate) fn send_dirty(self: &Rc<Self>) -> bool {
        let dirty = self.connections.dirty.take();
        let is_any = !dirty.is_empty();
        for connection in dirty {
            connection.is_dirty.set(false);
            if connection.is_open.get() && !connection.is_write_blocked.get() {
                self.send(&connection);
            }
        }
        is_any
    }

    fn send(self: &Rc<Self>, connection: &Rc<Connection>) {
        match connection.send() {
            Sent::All { bytes } => {
                self.on_sent(connection, bytes);
                if let Some(reason) = connection.closing.get() {
                    self.disconnect(connection, reason);
                }
            }
            Sent::Blocked { bytes } => {
                self.on_sent(connection, bytes);
                connection.is_write_blocked.set(true);
                let unblock = Rc::clone(self).run_blocked(Rc::clone(connection));
                self.connections.tasks.set(self.connections.tasks.get() + 1);
                glommio::spawn_local(unblock).detach();
            }
            Sent::Broken => self.disconnect(connection, CloseReason::Client),
        }
    }

    fn on_sent(&self, connection: &Connection, bytes: usize) {
        if bytes > 0 {
            connection.active_us.set(self.clock.mono_us());
            self.metrics.sent_bytes.increment(bytes as u64);
            self.enqueue(Event::ResponseSent { connection: connection.id, bytes });
        }
    }

    /// Goes on sending when the socket takes bytes again.
    async fn run_blocked(self: Rc<Self>, connection: Rc<Connection>) {
        // An error shows again in the send that follows.
        let _ = connection.socket.writable().await;
        connection.is_write_blocked.set(false);
        if connection.is_open.get() {
            self.connections.mark_dirty(&connection);
            self.run();
        }
        drop(connection);
        self.connections.tasks.set(self.connections.tasks.get() - 1);
        self.connections.task_ended.notify();
    }
}
