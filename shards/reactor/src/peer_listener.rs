//! Where other nodes call: plain threads that hear who it is and hand the connection to the shard that it is for.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use types::{DirectoryId, NodeId, ShardId};

use crate::error::{StartError, file_error};
use crate::peer_handshake::{Hello, answer};
use crate::peer_identity::Identity;

/// Callers that are heard at once; more are closed unheard and call again.
const HANDSHAKES_MAX: usize = 32;

/// Connections on their way to one shard. Beyond it they are closed, and the peer calls again.
pub(crate) const CONNECTIONS_HANDED_MAX: usize = 64;

/// After a failed accept, so that a lack of descriptors does not keep a core busy.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A connection whose caller was heard and admitted.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) peer: NodeId,
    pub(crate) directory_id: DirectoryId,
    /// The shard of the peer that sends over it.
    pub(crate) sender: ShardId,
    pub(crate) stream: TcpStream,
}

/// The listeners for peers with their threads. Dropping it closes the ports and waits for the threads that accept.
#[derive(Debug)]
pub(crate) struct PeerListeners {
    listeners: Vec<Arc<TcpListener>>,
    is_closed: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a thread that accepts works with.
#[derive(Clone)]
struct Accepting {
    identity: Arc<Identity>,
    /// The way to each shard.
    shards: Arc<Vec<async_channel::Sender<Admitted>>>,
    handshakes: Arc<AtomicUsize>,
    is_closed: Arc<AtomicBool>,
}

impl PeerListeners {
    /// Accepts on each of the listeners, for these shards.
    ///
    /// # Errors
    ///
    /// When a thread is refused.
    pub(crate) fn start(
        listeners: Vec<TcpListener>,
        identity: Arc<Identity>,
        shards: Vec<async_channel::Sender<Admitted>>,
    ) -> Result<PeerListeners, StartError> {
        let is_closed = Arc::new(AtomicBool::new(false));
        let accepting = Accepting {
            identity,
            shards: Arc::new(shards),
            handshakes: Arc::default(),
            is_closed: Arc::clone(&is_closed),
        };
        let mut started = PeerListeners { listeners: Vec::new(), is_closed, threads: Vec::new() };
        for listener in listeners {
            let failed = file_error("accept nodes on", "--raft-addr");
            listener.set_nonblocking(false).map_err(failed)?;
            let listener = Arc::new(listener);
            let (accepting, own) = (accepting.clone(), Arc::clone(&listener));
            started.listeners.push(listener);
            let builder = thread::Builder::new().name("peer-listener".to_owned());
            let thread = builder.spawn(move || accepting.run(&own));
            started.threads.push(thread.map_err(file_error("start a thread for", "--raft-addr"))?);
        }
        Ok(started)
    }

    /// Refuses connections from now on, so that a peer which calls again learns that this node has ended.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        for listener in &self.listeners {
            // It wakes the thread that accepts. It fails only where the listener was closed before.
            let _ = SockRef::from(&**listener).shutdown(Shutdown::Both);
        }
    }
}

impl Drop for PeerListeners {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that accepts nodes panicked");
            }
        }
    }
}

impl Accepting {
    fn run(&self, listener: &TcpListener) {
        while !self.is_closed.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((stream, address)) => self.on_accepted(stream, address),
                Err(_) if self.is_closed.load(Ordering::Acquire) => {}
                Err(error) => {
                    tracing::warn!("cannot accept nodes: {error}");
                    thread::sleep(ACCEPT_REST);
                }
            }
        }
    }

    fn on_accepted(&self, stream: TcpStream, address: SocketAddr) {
        let Some(slot) = Slot::take(&self.handshakes) else { return };
        let own = self.clone();
        let run = move || {
            let _slot = slot;
            own.hear(stream, address);
        };
        // Refused a thread, the connection is closed, and the peer calls again.
        let _ = thread::Builder::new().name("peer-handshake".to_owned()).spawn(run);
    }

    fn hear(&self, stream: TcpStream, address: SocketAddr) {
        let hello = match answer(&stream, &self.identity) {
            Ok(Ok(hello)) => hello,
            // The caller says it, where somebody can do something about it.
            Ok(Err(refusal)) => return tracing::debug!("refused a call from {address}: {refusal}"),
            Err(error) => return tracing::debug!("a call from {address} broke off: {error}"),
        };
        let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        if let Err(error) = prepared {
            return tracing::debug!("a call from {address} broke off: {error}");
        }
        let shard = usize::from(hello.shard.0) % self.shards.len();
        let Hello { caller: peer, directory_id, shard: sender, .. } = hello;
        let admitted = Admitted { peer, directory_id, sender, stream };
        // Full or closed: the connection closes with what could not be handed over.
        if self.shards[shard].try_send(admitted).is_err() {
            tracing::debug!("shard {shard} does not take the call of node {peer}");
        }
    }
}

/// One of the handshakes that may be under way.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(handshakes: &Arc<AtomicUsize>) -> Option<Slot> {
        let slot = Slot(Arc::clone(handshakes));
        // Counted first and given back on drop, so that two threads never share the last place.
        (handshakes.fetch_add(1, Ordering::Relaxed) < HANDSHAKES_MAX).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
