//! Whole nodes over real sockets and files, with state machines made for each test.

mod lifecycle;
mod peers;
mod sockets;
mod storage;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use shard::{Effect, Event};
use types::{ConnectionId, GroupId, NodeId, Now, ShardId};

use crate::{Node, NodeHandle, NodeOptions, ShardCore, ShardStart, StartError};

/// Longer than anything in these tests takes, so that a failure ends instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A state machine that is one closure and a deadline that the closure may set.
struct ClosureCore<F> {
    on_event: F,
    deadline_us: Rc<Cell<Option<u64>>>,
}

impl<F> ShardCore for ClosureCore<F>
where
    F: FnMut(Now, Event, &mut Vec<Effect>, &Cell<Option<u64>>) + 'static,
{
    fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        if matches!(event, Event::ShutdownRequested) {
            effects.push(Effect::ShutdownComplete);
        }
        (self.on_event)(now, event, effects, &self.deadline_us);
    }

    fn next_deadline_us(&self) -> Option<u64> {
        self.deadline_us.get()
    }
}

fn closure_core<F>(on_event: F) -> ClosureCore<F>
where
    F: FnMut(Now, Event, &mut Vec<Effect>, &Cell<Option<u64>>) + 'static,
{
    ClosureCore { on_event, deadline_us: Rc::default() }
}

/// A state machine that answers each request with itself.
fn echo_core(_start: ShardStart, _effects: &mut Vec<Effect>) -> impl ShardCore + use<> {
    closure_core(|_, event, effects, _| {
        if let Event::Frame { connection, frame } = event {
            effects.push(respond(connection, frame));
        }
    })
}

/// The frame as a response, in two parts.
fn respond(connection: ConnectionId, frame: BytesMut) -> Effect {
    let length = Bytes::copy_from_slice(&u32::try_from(frame.len()).expect("small").to_be_bytes());
    Effect::Respond { connection, parts: vec![length, frame.freeze()] }
}

fn options(data_dir: &Path, shards: u16) -> NodeOptions {
    let shard_of = move |group: GroupId| ShardId((group.0 % u64::from(shards)) as u16);
    let mut options = NodeOptions::new(data_dir.to_owned(), NodeId(1), shards, Arc::new(shard_of));
    options.listen = vec!["127.0.0.1:0".parse().expect("an address")];
    options
}

fn start<C, F>(data_dir: &Path, shards: u16, make_core: F) -> NodeHandle
where
    C: ShardCore,
    F: Fn(ShardStart, &mut Vec<Effect>) -> C + Send + Sync + 'static,
{
    Node::start(options(data_dir, shards), make_core).expect("the node starts")
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for the test")
}

fn connect(node: &NodeHandle) -> TcpStream {
    let stream = TcpStream::connect(node.addresses()[0]).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.set_nodelay(true).expect("set");
    stream
}

fn framed(frame: &[u8]) -> Vec<u8> {
    let mut wire = u32::try_from(frame.len()).expect("small").to_be_bytes().to_vec();
    wire.extend_from_slice(frame);
    wire
}

fn send(stream: &mut TcpStream, frame: &[u8]) {
    stream.write_all(&framed(frame)).expect("sent");
}

fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("a length");
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).expect("a frame");
    frame
}

/// Whether the other side has closed, with nothing more to read.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => true,
        Err(error) => panic!("cannot tell: {error}"),
    }
}

fn patterned(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|at| ((at + seed) * 31 % 251) as u8).collect()
}

/// A state machine that carries out one batch of effects after the other, each when the one before has brought
/// `answers` events that `is_answer` names, and tells the test of these.
fn scripted_core(
    batches: Vec<Vec<Effect>>,
    effects: &mut Vec<Effect>,
    answers: crossbeam_channel::Sender<Event>,
) -> impl ShardCore + use<> {
    let mut batches = VecDeque::from(batches);
    let mut open = 0;
    let mut begin_next = move |answered: usize, effects: &mut Vec<Effect>| {
        open -= answered;
        if open == 0
            && let Some(batch) = batches.pop_front()
        {
            open = batch.len();
            effects.extend(batch);
        }
    };
    begin_next(0, effects);
    closure_core(move |_, event, effects, _| {
        if matches!(event, Event::WalFlushed { .. } | Event::WalFileReady { .. } | Event::Disk { .. }) {
            answers.send(event).expect("the test listens");
            begin_next(1, effects);
        }
    })
}

/// Runs the batches on a node of one shard and returns what came back, in order.
fn run_script(
    data_dir: &Path,
    make_batches: impl Fn() -> Vec<Vec<Effect>> + Send + Sync + 'static,
) -> Vec<Event> {
    let (sender, answers) = crossbeam_channel::unbounded();
    let expected: usize = make_batches().iter().map(Vec::len).sum();
    let node = start(data_dir, 1, move |_, effects| scripted_core(make_batches(), effects, sender.clone()));
    let events = (0..expected).map(|_| answers.recv_timeout(PATIENCE).expect("an answer")).collect();
    assert_eq!(node.stop(), crate::Exit::Finished);
    events
}
