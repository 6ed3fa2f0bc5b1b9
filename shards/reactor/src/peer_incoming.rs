//! The connections of other nodes to one shard: dialled by the other side, and read from only.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use glommio::io::{PollState, PollableFd};
use shard::Event;
use socket2::SockRef;
use types::{DirectoryId, NodeId, ShardId};

use crate::connection::{RECEIVE_BYTES_PER_TURN, Received, SCRATCH_BYTES, received};
use crate::core::ShardCore;
use crate::driver::Driver;
use crate::metrics::IncomingPeerMetrics;
use crate::notify::Notify;
use crate::peer_frame::{PeerFrameError, PeerFrames};
use crate::peer_listener::Admitted;

/// One connection for each peer and each of its shards that send here.
pub(crate) struct IncomingPeers {
    open: RefCell<BTreeMap<(NodeId, ShardId), Rc<IncomingPeer>>>,
    scratch: RefCell<Vec<u8>>,
}

/// One connection. Its task lives until the socket is shut down; it is in [`IncomingPeers::open`] until then.
struct IncomingPeer {
    peer: NodeId,
    directory_id: DirectoryId,
    sender: ShardId,
    socket: PollableFd<TcpStream>,
    is_open: Cell<bool>,
    frames: RefCell<PeerFrames>,
    metrics: IncomingPeerMetrics,
    wake: Notify,
}

impl IncomingPeers {
    pub(crate) fn new() -> IncomingPeers {
        IncomingPeers { open: RefCell::default(), scratch: RefCell::new(vec![0; SCRATCH_BYTES]) }
    }
}

impl IncomingPeer {
    /// Nothing that comes over this connection is delivered any more.
    fn close(&self) {
        self.is_open.set(false);
        // The descriptor closes with the task, after its poll is cancelled. It fails only when the peer was first.
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
        self.wake.notify();
    }

    /// Waits until there is something to receive, or the connection is closed.
    async fn readable(&self) {
        let mut state = PollState::new();
        poll_fn(|context| {
            if self.wake.poll(context).is_ready() {
                return Poll::Ready(());
            }
            // An error shows again in the receive that follows.
            self.socket.poll_readable(context, &mut state).map(|_| ())
        })
        .await;
    }
}

impl<C: ShardCore> Driver<C> {
    /// Takes over what the listener for peers has admitted, until it is cancelled.
    pub(crate) async fn run_admitted(self: Rc<Self>, admitted: async_channel::Receiver<Admitted>) {
        while let Ok(admitted) = admitted.recv().await {
            self.on_admitted(admitted);
        }
    }

    fn on_admitted(self: &Rc<Self>, Admitted { peer, directory_id, sender, stream }: Admitted) {
        let identity = &self.peers.identity;
        if !identity.is_peer(peer) || identity.recognise(peer, directory_id).is_err() {
            return;
        }
        let Ok(socket) = PollableFd::new(stream) else { return };
        let incoming = Rc::new(IncomingPeer {
            peer,
            directory_id,
            sender,
            socket,
            is_open: Cell::new(true),
            frames: RefCell::new(PeerFrames::new()),
            metrics: IncomingPeerMetrics::new(self.shard, peer),
            wake: Notify::default(),
        });
        let replaced = self.peers.incoming.open.borrow_mut().insert((peer, sender), Rc::clone(&incoming));
        if let Some(replaced) = replaced {
            replaced.close();
        }
        self.peers.on_called(peer);
        self.feed(Event::PeerJoined { peer });
        self.peers.on_task_begun();
        glommio::spawn_local(Rc::clone(self).run_incoming(incoming)).detach();
    }

    /// Closes the connections of these peers.
    pub(crate) fn drop_incoming(&self, is_dropped: impl Fn(NodeId) -> bool) {
        let mut open = self.peers.incoming.open.borrow_mut();
        for (_, incoming) in open.extract_if(.., |(peer, _), _| is_dropped(*peer)) {
            incoming.close();
        }
    }

    /// Closes the connections of nodes that turn out to be without their data.
    pub(crate) fn drop_strangers(&self) {
        let identity = &self.peers.identity;
        let mut open = self.peers.incoming.open.borrow_mut();
        let is_stranger =
            |incoming: &IncomingPeer| identity.recognise(incoming.peer, incoming.directory_id).is_err();
        for (_, incoming) in open.extract_if(.., |_, incoming| is_stranger(incoming)) {
            incoming.close();
        }
    }

    async fn run_incoming(self: Rc<Self>, incoming: Rc<IncomingPeer>) {
        while incoming.is_open.get() {
            incoming.readable().await;
            self.receive_from_peer(&incoming);
        }
        drop(incoming);
        self.peers.on_task_ended();
    }

    fn receive_from_peer(self: &Rc<Self>, incoming: &IncomingPeer) {
        self.hold_responses(|| {
            let mut budget = RECEIVE_BYTES_PER_TURN;
            while incoming.is_open.get() && budget > 0 {
                match self.receive_peer_once(incoming, budget) {
                    Ok(Received::Bytes { count, is_drained }) => {
                        incoming.metrics.bytes_received.increment(count as u64);
                        // What came through the common buffer may be more.
                        budget = budget.saturating_sub(count);
                        if is_drained {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Ok(Received::End) | Err(_) => self.close_incoming(incoming),
                }
            }
        });
    }

    /// Receives once: into the frame that has begun if it is large, otherwise through the common buffer.
    fn receive_peer_once(self: &Rc<Self>, incoming: &IncomingPeer, budget: usize) -> io::Result<Received> {
        let mut frames = incoming.frames.borrow_mut();
        if let Some(room) = frames.room() {
            let room_bytes = room.len().min(budget);
            let room: &mut [MaybeUninit<u8>] = &mut room[..room_bytes];
            let count = SockRef::from(incoming.socket.get_ref()).recv(room)?;
            // SAFETY: `recv` returned that it wrote the first `count` bytes of `room`, which begins where the slice
            // that `PeerFrames::room` returned last begins.
            let frame = unsafe { frames.filled(count) };
            drop(frames);
            self.on_peer_frame(incoming, frame);
            return Ok(received(count, room_bytes));
        }
        drop(frames);
        let mut scratch = self.peers.incoming.scratch.take();
        let outcome = incoming.socket.get_ref().read(&mut scratch);
        if let Ok(count) = outcome {
            let mut input = &scratch[..count];
            while !input.is_empty() && incoming.is_open.get() {
                let taken = incoming.frames.borrow_mut().take(&mut input);
                self.on_peer_frame(incoming, taken);
            }
        }
        let scratch_bytes = scratch.len();
        self.peers.incoming.scratch.replace(scratch);
        Ok(received(outcome?, scratch_bytes))
    }

    fn on_peer_frame(self: &Rc<Self>, incoming: &IncomingPeer, frame: Result<Option<Bytes>, PeerFrameError>) {
        match frame {
            Ok(Some(frame)) => {
                incoming.metrics.frames_received.increment(1);
                self.feed(Event::FromPeer { peer: incoming.peer, frame });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(shard = %self.shard, "disconnecting node {}: {error}", incoming.peer);
                self.close_incoming(incoming);
            }
        }
    }

    fn close_incoming(&self, incoming: &IncomingPeer) {
        // It is still the one in the table: one that was replaced is closed, and receives nothing.
        self.peers.incoming.open.borrow_mut().remove(&(incoming.peer, incoming.sender));
        incoming.close();
    }
}
