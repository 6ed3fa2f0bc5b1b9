//! Messages between the shards of a process: one ring for each ordered pair.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::rc::Rc;

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::io::PollableFd;
use glommio::{GlommioError, ResourceType};
use shard::{Event, ShardMessage};
use types::ShardId;
use types::limits::RING_MESSAGES_MAX;

use crate::core::ShardCore;
use crate::driver::Driver;
use crate::notify::Notify;

/// Messages taken from one ring before the loop looks at its sockets and files again.
const MESSAGES_PER_TURN: usize = 256;

/// One shard's ends of all its rings, on the way to its thread. `None` stands for the shard itself.
pub(crate) struct RingEnds {
    senders: Vec<Option<SharedSender<ShardMessage>>>,
    receivers: Vec<Option<SharedReceiver<ShardMessage>>>,
}

/// Makes the rings between all pairs of `shards` shards.
pub(crate) fn make_rings(shards: u16) -> Vec<RingEnds> {
    let count = usize::from(shards);
    let mut ends: Vec<_> = (0..count)
        .map(|_| RingEnds { senders: Vec::with_capacity(count), receivers: Vec::with_capacity(count) })
        .collect();
    for from in 0..count {
        for to in 0..count {
            let (sender, receiver) = new_bounded(RING_MESSAGES_MAX);
            let is_pair = from != to;
            ends[from].senders.push(is_pair.then_some(sender));
            ends[to].receivers.push(is_pair.then_some(receiver));
        }
    }
    ends
}

/// The sending ends of a shard's rings.
pub(crate) struct Rings {
    outgoing: Vec<Option<OutgoingRing>>,
    loop_pass: LoopPass,
}

/// The receiving ends of a shard's rings, each with its sender.
pub(crate) type IncomingRings = Vec<(ShardId, ConnectedReceiver<ShardMessage>)>;

struct OutgoingRing {
    sender: ConnectedSender<ShardMessage>,
    /// Messages that found the ring full, in their order. As long as there are some, or one of them is being sent,
    /// none goes past them.
    waiting: RefCell<VecDeque<ShardMessage>>,
    is_sending: Cell<bool>,
    filled: Notify,
}

impl RingEnds {
    /// Binds the ends to this executor; every other shard has to do the same.
    pub(crate) async fn connect(self, loop_pass: LoopPass) -> (Rings, IncomingRings) {
        // Each end waits for its other one, so all are begun before the first is waited for.
        let senders: Vec<_> = self
            .senders
            .into_iter()
            .map(|end| end.map(|sender| glommio::spawn_local(sender.connect())))
            .collect();
        let receivers: Vec<_> = self
            .receivers
            .into_iter()
            .map(|end| end.map(|receiver| glommio::spawn_local(receiver.connect())))
            .collect();
        let mut outgoing = Vec::with_capacity(senders.len());
        for sender in senders {
            outgoing.push(match sender {
                Some(sender) => Some(OutgoingRing::new(sender.await)),
                None => None,
            });
        }
        let mut incoming = Vec::with_capacity(receivers.len());
        for (shard, receiver) in (0u16..).map(ShardId).zip(receivers) {
            if let Some(receiver) = receiver {
                incoming.push((shard, receiver.await));
            }
        }
        (Rings { outgoing, loop_pass }, incoming)
    }
}

impl Rings {
    /// The shards that there is a ring to.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = ShardId> {
        (0u16..).map(ShardId).zip(&self.outgoing).filter_map(|(shard, ring)| ring.as_ref().map(|_| shard))
    }

    fn ring(&self, to: ShardId) -> &OutgoingRing {
        let ring = self.outgoing.get(usize::from(to.0)).and_then(Option::as_ref);
        ring.expect("a message goes to another shard of this process")
    }
}

impl OutgoingRing {
    fn new(sender: ConnectedSender<ShardMessage>) -> OutgoingRing {
        let waiting = RefCell::new(VecDeque::new());
        OutgoingRing { sender, waiting, is_sending: Cell::new(false), filled: Notify::default() }
    }
}

impl<C: ShardCore> Driver<C> {
    pub(crate) fn send_to_shard(&self, to: ShardId, message: ShardMessage) {
        let ring = self.rings.ring(to);
        self.metrics.ring_messages.increment(1);
        let is_behind_others = ring.is_sending.get() || !ring.waiting.borrow().is_empty();
        let left = if is_behind_others {
            Some(message)
        } else {
            ring.sender.try_send(message).err().and_then(unsent)
        };
        if let Some(message) = left {
            ring.waiting.borrow_mut().push_back(message);
            self.metrics.ring_waiting.increment(1.0);
            ring.filled.notify();
        }
    }

    /// Moves the messages to `to` that found the ring full into it, as it empties.
    pub(crate) async fn run_outgoing_ring(self: Rc<Self>, to: ShardId) {
        let ring = self.rings.ring(to);
        loop {
            ring.filled.notified().await;
            loop {
                let Some(message) = ring.waiting.borrow_mut().pop_front() else { break };
                ring.is_sending.set(true);
                // An error says that the other shard has ended, and with it the process.
                let _ = ring.sender.send(message).await;
                ring.is_sending.set(false);
                self.metrics.ring_waiting.decrement(1.0);
            }
        }
    }

    /// Feeds what `from` sends.
    pub(crate) async fn run_incoming_ring(
        self: Rc<Self>,
        from: ShardId,
        receiver: ConnectedReceiver<ShardMessage>,
    ) {
        let mut taken = 0;
        while let Some(message) = receiver.recv().await {
            self.feed(Event::FromShard { from, message });
            taken += 1;
            if taken == MESSAGES_PER_TURN {
                taken = 0;
                self.rings.loop_pass.pass().await;
            }
        }
    }
}

/// The message of a send that found the ring full; `None` when the receiver is gone.
fn unsent(error: GlommioError<ShardMessage>) -> Option<ShardMessage> {
    match error {
        GlommioError::WouldBlock(ResourceType::Channel(message)) => Some(message),
        _ => None,
    }
}

/// A way for a task to let the loop serve sockets, files and timers once. A task that only yields to its queue
/// does not: the loop turns to them when the queue is empty or the preemption timer has run out.
pub(crate) struct LoopPass {
    /// A pipe with a byte in it, so that it is always readable, but known to be so only by asking the kernel.
    readable: PollableFd<PipeReader>,
    _writer: PipeWriter,
}

impl LoopPass {
    pub(crate) fn new() -> io::Result<LoopPass> {
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(&[0])?;
        Ok(LoopPass { readable: PollableFd::new(reader)?, _writer: writer })
    }

    async fn pass(&self) {
        // There is nothing to be done about an error but to go on.
        let _ = self.readable.readable().await;
    }
}
