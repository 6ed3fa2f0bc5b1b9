//! Starting a node and holding it.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use glommio::io::PollableFd;
use glommio::{Latency, LocalExecutor, LocalExecutorBuilder, PoolPlacement, Shares, Task};
use log::wal::Recovered;
use shard::{Effect, Event};
use types::{DirectoryId, Now, ShardId};

use crate::clock::Clock;
use crate::connection::Connections;
use crate::core::ShardCore;
use crate::data_dir::{DataDir, MetaProperties, stored_cluster_id, sync_dir};
use crate::disk::Disk;
use crate::driver::{Driver, DriverParts};
use crate::error::{StartError, file_error};
use crate::exit::{Exit, Fatal};
use crate::groups::groups_folder;
use crate::listen::open_listeners;
use crate::machine::{self, Allowance};
use crate::options::{NodeOptions, Placement};
use crate::peer_identity::{Identity, Own};
use crate::peer_link::Peers;
use crate::peer_listener::{Admitted, CONNECTIONS_HANDED_MAX, PeerListeners};
use crate::polling::{PollTimes, SPIN};
use crate::regroup::prepare_wals;
use crate::ring::{LoopPass, RingEnds, make_rings};
use crate::segment::Segments;
use crate::supervisor::{Control, ExitCell, LoopCounts, Report, Reports, ShardLink, Supervisor};
use crate::wal::Wal;
use crate::wal_dir::{recover_wal, shard_folder, wal_folder};

/// Requests that each executor's rings take at once.
const RING_DEPTH: usize = 256;

/// Threads of each executor for system calls that io_uring does not have.
const BLOCKING_THREADS: usize = 4;

/// The share of segment I/O; requests and the WAL have 1000.
const DISK_SHARES: usize = 250;

/// Room for each [`Control`] there is.
const CONTROLS_MAX: usize = 4;

/// A Chronik node within this process.
pub struct Node;

/// What a shard's state machine is made from.
#[derive(Debug)]
pub struct ShardStart {
    /// The shard, counted from 0.
    pub shard: ShardId,
    /// What its WAL holds.
    pub recovered: Recovered,
    /// The id of the node's data directory, the same at each start.
    pub directory_id: DirectoryId,
    /// The time.
    pub now: Now,
}

/// A running node. Dropping it does not end the node.
#[derive(Debug)]
pub struct NodeHandle {
    addresses: Vec<SocketAddr>,
    raft_addresses: Vec<SocketAddr>,
    reports: Reports,
    exit: Arc<ExitCell>,
    /// Weak, so that the lock goes with the node, not with its handle.
    data_dir: Weak<DataDir>,
}

/// Asks a node to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    reports: Reports,
}

impl Node {
    /// Starts a node: checks the machine and the options, locks the data directory, listens, recovers the WALs on the
    /// shards' threads, and serves. `make_core` is called once for each shard, on the shard's thread; the
    /// effects that it appends are carried out before the first event.
    ///
    /// Metrics go to the recorder that is installed by then. Blocks until all shards serve.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. Nothing runs and nothing listens then.
    pub fn start<C, F>(options: NodeOptions, make_core: F) -> Result<NodeHandle, StartError>
    where
        C: ShardCore,
        F: Fn(ShardStart, &mut Vec<Effect>) -> C + Send + Sync + 'static,
    {
        validate(&options)?;
        glommio::early_init();
        let allowance = machine::prepare(options.shards)?;
        let data_dir = open_data_dir(&options)?;
        let listeners = open_listeners(&options.listen, options.shards)?;
        let raft = open_listeners(&options.raft_listen, 1)?;
        prepare_wals(&options.data_dir, options.shards, &*options.shard_of)?;
        let groups = groups_folder(&options.data_dir);
        std::fs::create_dir_all(&groups).map_err(file_error("create", groups))?;
        sync_dir(&options.data_dir)?;

        let cluster_id = stored_cluster_id(&options.data_dir)?;
        let own = Own {
            node: options.node_id,
            incarnation: options.incarnation,
            directory_id: data_dir.directory_id(),
        };
        let identity = Arc::new(Identity::new(own, cluster_id));
        let (sender, reports) = unbounded();
        let starter = Starter {
            allowance,
            clock: Clock::new(),
            reports: Reports(sender),
            data_dir: Arc::new(data_dir),
            identity: Arc::clone(&identity),
            make_core: Arc::new(make_core),
            options,
        };
        let mut links = Vec::new();
        let shards = (0u16..).map(ShardId).zip(make_rings(starter.options.shards)).zip(listeners.by_shard);
        let mut admitted = Vec::new();
        let started = starter.spawn_shards(shards, &mut links, &mut admitted).and_then(|()| {
            let listeners = raft.by_shard.into_iter().flatten().collect();
            PeerListeners::start(listeners, Arc::clone(&identity), admitted)
        });
        let peer_listeners = match started {
            Ok(peer_listeners) => peer_listeners,
            Err(error) => {
                abandon(links);
                return Err(error);
            }
        };
        for link in &links {
            link.tell(Control::Serve);
        }
        let exit = Arc::new(ExitCell::default());
        let stop_grace = starter.options.stop_grace;
        let data_dir = Arc::downgrade(&starter.data_dir);
        let supervisor = Supervisor {
            links,
            reports,
            stop_grace,
            exit: Arc::clone(&exit),
            data_dir: Arc::clone(&starter.data_dir),
            identity,
            peer_listeners,
        };
        thread::Builder::new()
            .name("supervisor".to_owned())
            .spawn(|| supervisor.run())
            .map_err(file_error("start a thread for", &starter.options.data_dir))?;
        Ok(NodeHandle {
            addresses: listeners.addresses,
            raft_addresses: raft.addresses,
            reports: starter.reports,
            exit,
            data_dir,
        })
    }
}

impl NodeHandle {
    /// The addresses that are listened on, in the order of the options, with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The addresses that other nodes are accepted on, in the order of the options, with their real ports.
    pub fn raft_addresses(&self) -> &[SocketAddr] {
        &self.raft_addresses
    }

    /// Waits until the node has joined a cluster and remembers so, and gives the cluster's id.
    ///
    /// # Errors
    ///
    /// How the node ended, if it has.
    pub fn wait_joined(&self) -> Result<String, Exit> {
        self.exit.wait_joined()
    }

    /// What asks this node to stop, for a signal handler's thread.
    pub fn stopper(&self) -> Stopper {
        Stopper { reports: self.reports.clone() }
    }

    /// Remembers the cluster's id in the data directory, durably.
    ///
    /// # Errors
    ///
    /// [`StartError::OtherCluster`] when another one is remembered; [`StartError::Options`] when the node has ended;
    /// [`StartError::File`].
    pub fn store_cluster_id(&self, cluster_id: &str) -> Result<(), StartError> {
        match self.data_dir.upgrade() {
            Some(data_dir) => data_dir.store_cluster_id(cluster_id),
            None => Err(StartError::Options("a node that has ended learns no cluster id".to_owned())),
        }
    }

    /// Stops the node and waits for its end: no more clients are accepted, each shard finishes what it has accepted,
    /// and all end together, at the latest when the grace period is over.
    pub fn stop(&self) -> Exit {
        self.stopper().request_stop();
        self.wait()
    }

    /// Waits for the node's end, whatever brings it about.
    pub fn wait(&self) -> Exit {
        self.exit.wait()
    }
}

impl Stopper {
    /// Begins what [`NodeHandle::stop`] waits for. Does nothing when the node is stopping already.
    pub fn request_stop(&self) {
        self.reports.send(Report::StopRequested);
    }
}

fn validate(options: &NodeOptions) -> Result<(), StartError> {
    let impossible = |why: String| Err(StartError::Options(why));
    if options.shards == 0 {
        return impossible("there must be at least one shard".to_owned());
    }
    if let Placement::Pinned(processors) = &options.placement
        && processors.len() != usize::from(options.shards)
    {
        let (shards, processors) = (options.shards, processors.len());
        return impossible(format!("{shards} shards are to be pinned to {processors} processors"));
    }
    if i32::try_from(options.request_bytes_max).is_err() {
        return impossible(format!("requests of {} bytes cannot be framed", options.request_bytes_max));
    }
    if !options.voters.is_sorted_by(|left, right| left < right) {
        return impossible("voters must be in ascending order".to_owned());
    }
    Ok(())
}

fn open_data_dir(options: &NodeOptions) -> Result<DataDir, StartError> {
    let new = MetaProperties {
        node_id: options.node_id,
        voters: options.voters.clone(),
        directory_id: Some(options.new_directory_id),
        cluster_id: options.cluster_id.clone(),
    };
    DataDir::open(&options.data_dir, new)
}

/// Ends threads that were started in vain, so that nothing of the node is left.
fn abandon(links: Vec<ShardLink>) {
    for link in links {
        let ShardLink { control, thread, .. } = link;
        // A thread that waits for `Serve` ends when nobody can send it any more.
        drop(control);
        if thread.join().is_err() {
            tracing::error!(shard = %link.shard, "the shard's thread panicked");
        }
    }
}

/// What the threads of all shards are started with.
struct Starter<F> {
    options: NodeOptions,
    allowance: Allowance,
    clock: Clock,
    reports: Reports,
    data_dir: Arc<DataDir>,
    identity: Arc<Identity>,
    make_core: Arc<F>,
}

/// What comes out of a thread's start.
type Readiness = Result<(), StartError>;

impl<F> Starter<F> {
    /// Starts a thread for each shard, and waits until each has recovered its WAL and made its core.
    fn spawn_shards<C>(
        &self,
        shards: impl Iterator<Item = ((ShardId, RingEnds), Vec<TcpListener>)>,
        links: &mut Vec<ShardLink>,
        admitting: &mut Vec<async_channel::Sender<Admitted>>,
    ) -> Result<(), StartError>
    where
        C: ShardCore,
        F: Fn(ShardStart, &mut Vec<Effect>) -> C + Send + Sync + 'static,
    {
        let mut starting = Vec::new();
        for ((shard, rings), listeners) in shards {
            let (sender, admitted) = async_channel::bounded(CONNECTIONS_HANDED_MAX);
            let (link, readiness) = self.spawn_shard(shard, rings, listeners, admitted)?;
            admitting.push(sender);
            links.push(link);
            starting.push((shard, readiness));
        }
        for (shard, readiness) in starting {
            let ended_early =
                || StartError::Executor { shard: shard.0, why: "its thread ended early".to_owned() };
            readiness.recv().unwrap_or_else(|_| Err(ended_early()))?;
        }
        Ok(())
    }

    fn spawn_shard<C>(
        &self,
        shard: ShardId,
        rings: RingEnds,
        listeners: Vec<TcpListener>,
        admitted: async_channel::Receiver<Admitted>,
    ) -> Result<(ShardLink, Receiver<Readiness>), StartError>
    where
        C: ShardCore,
        F: Fn(ShardStart, &mut Vec<Effect>) -> C + Send + Sync + 'static,
    {
        let (ready_sender, ready_receiver) = bounded(1);
        let (control_sender, control) = async_channel::bounded(CONTROLS_MAX);
        let (poke_sender, poke) = async_channel::bounded(1);
        let counts = Arc::new(LoopCounts::default());
        let thread = ShardThread {
            shard,
            options: self.options.clone(),
            allowance: self.allowance,
            clock: self.clock,
            reports: self.reports.clone(),
            rings,
            listeners,
            admitted,
            identity: Arc::clone(&self.identity),
            control,
            poke,
            counts: Arc::clone(&counts),
            data_dir: Arc::clone(&self.data_dir),
        };
        let make_core = Arc::clone(&self.make_core);
        let handle = thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || thread.run(&*make_core, &ready_sender))
            .map_err(|error| StartError::Executor { shard: shard.0, why: error.to_string() })?;
        let link = ShardLink { shard, control: control_sender, poke: poke_sender, counts, thread: handle };
        Ok((link, ready_receiver))
    }
}

/// Tells the supervisor that a thread ends, even if it panics.
struct EndReport {
    shard: ShardId,
    reports: Reports,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        self.reports.send(Report::Ended(self.shard));
    }
}

/// One shard's thread, before and around its executor.
struct ShardThread {
    shard: ShardId,
    options: NodeOptions,
    allowance: Allowance,
    clock: Clock,
    reports: Reports,
    rings: RingEnds,
    listeners: Vec<TcpListener>,
    admitted: async_channel::Receiver<Admitted>,
    identity: Arc<Identity>,
    control: async_channel::Receiver<Control>,
    poke: async_channel::Receiver<()>,
    counts: Arc<LoopCounts>,
    /// The directory stays locked until the last thread that writes to it has ended.
    data_dir: Arc<DataDir>,
}

impl ShardThread {
    fn run<C, F>(self, make_core: &F, ready: &Sender<Readiness>)
    where
        C: ShardCore,
        F: Fn(ShardStart, &mut Vec<Effect>) -> C,
    {
        let _end_report = EndReport { shard: self.shard, reports: self.reports.clone() };
        let prepared = self.recover().and_then(|recovered| Ok((recovered, self.make_executor()?)));
        // Sending fails only when the start was given up meanwhile.
        match prepared {
            Ok((recovered, executor)) => {
                let mut effects = Vec::new();
                let start = ShardStart {
                    shard: self.shard,
                    recovered,
                    directory_id: self.data_dir.directory_id(),
                    now: self.clock.now(),
                };
                let core = make_core(start, &mut effects);
                if ready.send(Ok(())).is_ok() {
                    executor.run(self.serve(core, effects));
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    }

    fn wal_folder(&self) -> std::path::PathBuf {
        shard_folder(&wal_folder(&self.options.data_dir), self.shard.0)
    }

    fn recover(&self) -> Result<Recovered, StartError> {
        recover_wal(&self.wal_folder(), self.shard.0)
    }

    fn poll_times(&self) -> PollTimes {
        PollTimes { event: self.options.busy_poll, write: self.options.write_poll }
    }

    fn make_executor(&self) -> Result<LocalExecutor, StartError> {
        let placement = match &self.options.placement {
            Placement::Unbound => glommio::Placement::Unbound,
            Placement::Pinned(processors) => glommio::Placement::Fixed(processors[usize::from(self.shard.0)]),
        };
        LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{}", self.shard))
            .io_memory(self.allowance.io_memory)
            .spin_before_park(if self.poll_times().is_never() { Duration::ZERO } else { SPIN })
            .ring_depth(RING_DEPTH)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .make()
            .map_err(|error| StartError::Executor { shard: self.shard.0, why: error.to_string() })
    }

    /// The executor's main task.
    async fn serve<C: ShardCore>(self, core: C, effects: Vec<Effect>) {
        let poll_times = self.poll_times();
        let mut tasks = vec![glommio::spawn_local(answer_pokes(self.poke, Arc::clone(&self.counts)))];
        if self.control.recv().await != Ok(Control::Serve) {
            return cancel(tasks).await;
        }
        let loop_pass = match LoopPass::new() {
            Ok(loop_pass) => loop_pass,
            Err(error) => {
                let why = format!("it cannot make a pipe: {error}");
                self.reports.send(Report::Fatal(Fatal::ExecutorDied { shard: self.shard, why }));
                return cancel(tasks).await;
            }
        };
        let (rings, incoming) = self.rings.connect(loop_pass).await;
        let data_dir: &Path = &self.options.data_dir;
        let disk_queue =
            glommio::executor().create_task_queue(Shares::Static(DISK_SHARES), Latency::NotImportant, "disk");
        let wal = Wal::new(shard_folder(&wal_folder(data_dir), self.shard.0));
        let driver = Driver::new(DriverParts {
            shard: self.shard,
            clock: self.clock,
            connections: Connections::new(
                self.allowance.connections,
                self.options.request_bytes_max,
                self.options.connections_max_idle,
            ),
            disk: Disk::new(Segments::new(groups_folder(data_dir), wal.progress())),
            disk_queue,
            peers: Peers::new(self.shard, self.identity),
            rings,
            wal,
            core,
            counts: self.counts,
            reports: self.reports,
        });
        tasks.push(glommio::spawn_local(Rc::clone(&driver).run_turns()));
        tasks.push(glommio::spawn_local(Rc::clone(&driver).run_deadlines()));
        tasks.push(glommio::spawn_local(Rc::clone(&driver).run_wal()));
        if !poll_times.is_never() {
            tasks.push(glommio::spawn_local(Rc::clone(&driver).run_polling(poll_times)));
        }
        for to in driver.rings.receivers() {
            tasks.push(glommio::spawn_local(Rc::clone(&driver).run_outgoing_ring(to)));
        }
        driver.begin(effects);
        let admitting = glommio::spawn_local(Rc::clone(&driver).run_admitted(self.admitted));
        for (from, receiver) in incoming {
            tasks.push(glommio::spawn_local(Rc::clone(&driver).run_incoming_ring(from, receiver)));
        }
        let mut accepting = Vec::new();
        for listener in self.listeners {
            match PollableFd::new(listener) {
                Ok(listener) => {
                    accepting.push(glommio::spawn_local(Rc::clone(&driver).run_listener(listener)))
                }
                Err(error) => {
                    let why = format!("it cannot watch a listener: {error}");
                    driver.die(Fatal::ExecutorDied { shard: driver.shard, why });
                }
            }
        }
        if self.control.recv().await == Ok(Control::Stop) {
            cancel(std::mem::take(&mut accepting)).await;
            driver.feed(Event::ShutdownRequested);
            // Only `End` is left, or nobody to send it.
            let _ = self.control.recv().await;
        }
        driver.retire();
        cancel(accepting).await;
        driver.close_connections().await;
        // First, so that none comes in behind those that are closed.
        admitting.cancel().await;
        driver.close_peers().await;
        driver.disk.close().await;
        cancel(tasks).await;
        driver.wal.close().await;
    }
}

/// Ends tasks where they wait.
async fn cancel(tasks: Vec<Task<()>>) {
    for task in tasks {
        task.cancel().await;
    }
}

/// Shows the supervisor that the loop turns.
async fn answer_pokes(poke: async_channel::Receiver<()>, counts: Arc<LoopCounts>) {
    while poke.recv().await.is_ok() {
        counts.beats.fetch_add(1, Ordering::Relaxed);
    }
}
