//! The thread beside the shards: it keeps them awake, notices when one stands still, and ends them together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use types::ShardId;

use crate::data_dir::DataDir;
use crate::exit::{Exit, Fatal};
use crate::metrics::StallMetrics;
use crate::peer_identity::Identity;
use crate::peer_listener::PeerListeners;

/// How often each executor is woken. An executor can park although it has tasks to run; only a wake-up from
/// outside brings it back.
const POKE_INTERVAL: Duration = Duration::from_millis(20);

/// The same while no shard does much: a wake-up costs, and the least that a shard sleeps for wrongly is what its thread
/// was frozen for before, 100 ms.
const POKE_INTERVAL_QUIET: Duration = Duration::from_millis(100);

/// How often it is decided whether there is much to do, and from how many turns of a shard on there is.
const QUIET_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const QUIET_TURNS_MAX: u64 = 20;

/// A shard that has not answered for this long is reported. The loop's own preemption takes up to 100 ms.
const STALL_MIN: Duration = Duration::from_millis(250);

/// How long executors that were told to end may take.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// What the supervisor tells an executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// All shards are ready: serve.
    Serve,
    /// Accept nobody more, and ask the shard to finish.
    Stop,
    /// Close everything and end.
    End,
}

/// What an executor, or the handle of the node, tells the supervisor.
#[derive(Debug)]
pub(crate) enum Report {
    /// The node is to stop.
    StopRequested,
    /// The node has joined a cluster.
    Joined { shard: ShardId, cluster_id: String },
    /// The shard has finished everything it had accepted.
    Complete(ShardId),
    /// A shard cannot go on.
    Fatal(Fatal),
    /// The executor's thread is at its end.
    Ended(ShardId),
}

/// The way to the supervisor.
#[derive(Clone, Debug)]
pub(crate) struct Reports(pub(crate) Sender<Report>);

impl Reports {
    pub(crate) fn send(&self, report: Report) {
        // Without a supervisor the process is ending, and nobody is left to tell.
        let _ = self.0.send(report);
    }
}

/// What an executor shows of its loop.
#[derive(Debug, Default)]
pub(crate) struct LoopCounts {
    /// Pokes answered.
    pub(crate) beats: AtomicU64,
    /// Turns of the shard.
    pub(crate) turns: AtomicU64,
}

/// The supervisor's side of one executor.
pub(crate) struct ShardLink {
    pub(crate) shard: ShardId,
    pub(crate) control: async_channel::Sender<Control>,
    pub(crate) poke: async_channel::Sender<()>,
    pub(crate) counts: Arc<LoopCounts>,
    pub(crate) thread: JoinHandle<()>,
}

impl ShardLink {
    pub(crate) fn tell(&self, control: Control) {
        // It has room for every control there is; closed, the executor has ended.
        let _ = self.control.try_send(control);
    }
}

/// How far the node has come, for those who wait for it.
#[derive(Debug, Default)]
pub(crate) struct ExitCell {
    progress: Mutex<Progress>,
    is_set: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// The id of the cluster that the node has joined.
    joined: Option<String>,
    /// How it ended, once it has.
    exit: Option<Exit>,
}

impl ExitCell {
    fn set(&self, exit: Exit) {
        self.change(|progress| progress.exit = Some(exit));
    }

    fn set_joined(&self, cluster_id: String) {
        self.change(|progress| progress.joined = Some(cluster_id));
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner));
        self.is_set.notify_all();
    }

    pub(crate) fn wait(&self) -> Exit {
        self.wait_until(|progress| progress.exit.clone())
    }

    /// Waits for the cluster's id, or for the end, whichever comes first.
    pub(crate) fn wait_joined(&self) -> Result<String, Exit> {
        self.wait_until(|Progress { joined, exit }| match (exit, joined) {
            (Some(exit), _) => Some(Err(exit.clone())),
            (None, Some(cluster_id)) => Some(Ok(cluster_id.clone())),
            (None, None) => None,
        })
    }

    fn wait_until<T>(&self, reached: impl Fn(&Progress) -> Option<T>) -> T {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match reached(&progress) {
                Some(reached) => return reached,
                None => progress = self.is_set.wait(progress).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Whether a shard's loop turns. A stall is measured in the supervisor's own ticks, so that a pause of the whole
/// process does not count as one.
struct Pulse {
    beats: u64,
    silence: Duration,
    is_reported: bool,
    metrics: StallMetrics,
}

impl Pulse {
    fn new(shard: ShardId) -> Pulse {
        Pulse { beats: 0, silence: Duration::ZERO, is_reported: false, metrics: StallMetrics::new(shard) }
    }

    /// `passed` since the last look, and since the last poke.
    fn observe(&mut self, shard: ShardId, beats: u64, passed: Duration, interval: Duration) {
        if beats != self.beats {
            if self.is_reported {
                tracing::warn!(%shard, stalled_ms = self.silence.as_millis(), "the shard turns again");
                self.metrics.duration.record(self.silence);
            }
            *self =
                Pulse { beats, silence: Duration::ZERO, is_reported: false, metrics: self.metrics.clone() };
            return;
        }
        self.silence += passed.min(2 * interval);
        if self.silence >= STALL_MIN && !self.is_reported {
            self.is_reported = true;
            tracing::warn!(%shard, stalled_ms = self.silence.as_millis(), "the shard stands still");
            self.metrics.stalls.increment(1);
        }
    }
}

/// Whether any shard does much, and how often all are poked because of it.
struct Activity {
    /// The turns of each shard when it was last decided; empty at first.
    turns: Vec<u64>,
    next_check: Instant,
    interval: Duration,
}

impl Activity {
    fn new() -> Activity {
        let next_check = Instant::now() + QUIET_CHECK_INTERVAL;
        Activity { turns: Vec::new(), next_check, interval: POKE_INTERVAL }
    }

    fn observe(&mut self, links: &[ShardLink], now: Instant) {
        let turns: Vec<_> = links.iter().map(|link| link.counts.turns.load(Ordering::Relaxed)).collect();
        let most = turns.iter().zip(&self.turns).map(|(new, old)| new - old).max().unwrap_or(u64::MAX);
        if most > QUIET_TURNS_MAX {
            self.interval = POKE_INTERVAL;
        } else if now >= self.next_check {
            self.interval = POKE_INTERVAL_QUIET;
        }
        if now >= self.next_check || self.turns.is_empty() {
            self.turns = turns;
            self.next_check = now + QUIET_CHECK_INTERVAL;
        }
    }
}

/// How far the node's end has come.
enum Phase {
    Running,
    /// The shards finish, each on its own.
    Stopping {
        deadline: Instant,
        incomplete: Vec<ShardId>,
    },
    /// All were told to end.
    Ending {
        deadline: Instant,
        exit: Exit,
    },
}

pub(crate) struct Supervisor {
    pub(crate) links: Vec<ShardLink>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) stop_grace: Duration,
    pub(crate) exit: Arc<ExitCell>,
    pub(crate) data_dir: Arc<DataDir>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peer_listeners: PeerListeners,
}

impl Supervisor {
    /// Runs until all executors have ended or are given up.
    pub(crate) fn run(self) {
        let exit = self.supervise();
        drop(self.peer_listeners);
        // The last to hold the directory's lock, which is free when the end is known.
        drop(self.data_dir);
        for link in self.links {
            // One that was given up hangs in a system call, and the process ends without it.
            if link.thread.is_finished() && link.thread.join().is_err() {
                tracing::error!(shard = %link.shard, "the executor's thread panicked");
            }
        }
        self.exit.set(exit);
    }

    fn supervise(&self) -> Exit {
        let mut phase = Phase::Running;
        let mut alive: Vec<ShardId> = self.links.iter().map(|link| link.shard).collect();
        let mut pulses: Vec<_> = alive.iter().map(|shard| Pulse::new(*shard)).collect();
        let mut activity = Activity::new();
        let (mut next_poke, mut last_poke) = (Instant::now(), Instant::now());
        loop {
            match self.reports.recv_deadline(next_poke) {
                Ok(report) => phase = self.on_report(phase, &mut alive, report),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let now = Instant::now();
                    self.poke(&mut pulses, now - last_poke, activity.interval);
                    activity.observe(&self.links, now);
                    (last_poke, next_poke) = (now, now + activity.interval);
                }
            }
            phase = self.check_deadline(phase);
            if let Phase::Ending { deadline, exit } = &phase {
                let is_over = Instant::now() >= *deadline;
                if is_over {
                    tracing::error!(?alive, "executors do not end and are given up");
                }
                if alive.is_empty() || is_over {
                    self.await_threads(*deadline);
                    return exit.clone();
                }
            }
        }
    }

    fn on_report(&self, phase: Phase, alive: &mut Vec<ShardId>, report: Report) -> Phase {
        match (report, phase) {
            (Report::Joined { shard, cluster_id }, phase) => match self.join(shard, cluster_id) {
                Ok(()) => phase,
                Err(fatal) => self.on_report(phase, alive, Report::Fatal(fatal)),
            },
            (Report::StopRequested, Phase::Running) => {
                self.tell_all(Control::Stop);
                Phase::Stopping { deadline: Instant::now() + self.stop_grace, incomplete: alive.clone() }
            }
            (Report::Complete(shard), Phase::Stopping { deadline, mut incomplete }) => {
                incomplete.retain(|other| *other != shard);
                if incomplete.is_empty() {
                    // Only together: until then a shard may still serve the connections of another.
                    return self.end(Exit::Finished);
                }
                Phase::Stopping { deadline, incomplete }
            }
            (Report::Ended(shard), phase) => {
                alive.retain(|other| *other != shard);
                match phase {
                    Phase::Ending { .. } => phase,
                    _ => {
                        let why = "its thread ended without being asked".to_owned();
                        self.end(Exit::Fatal(Fatal::ExecutorDied { shard, why }))
                    }
                }
            }
            (Report::Fatal(fatal), Phase::Ending { deadline, exit: Exit::Finished | Exit::GraceExpired }) => {
                let exit = Exit::Fatal(fatal);
                self.exit.set(exit.clone());
                Phase::Ending { deadline, exit }
            }
            (Report::Fatal(fatal), Phase::Running | Phase::Stopping { .. }) => self.end(Exit::Fatal(fatal)),
            (_, phase) => phase,
        }
    }

    /// Remembers the cluster, durably, before anybody is told of it.
    fn join(&self, shard: ShardId, cluster_id: String) -> Result<(), Fatal> {
        self.data_dir.store_cluster_id(&cluster_id).map_err(|error| {
            tracing::error!(%shard, "{error}");
            Fatal::NotJoined { why: error.to_string() }
        })?;
        self.identity.set_cluster_id(&cluster_id);
        self.exit.set_joined(cluster_id);
        Ok(())
    }

    fn check_deadline(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Stopping { deadline, incomplete } if Instant::now() >= deadline => {
                tracing::warn!(?incomplete, "the grace period is over, ending with unfinished work");
                self.end(Exit::GraceExpired)
            }
            phase => phase,
        }
    }

    fn end(&self, exit: Exit) -> Phase {
        // Before the connections close: a peer that calls again is to find that this node has ended.
        self.peer_listeners.close();
        self.tell_all(Control::End);
        if matches!(exit, Exit::Fatal(_)) {
            // The process need not wait for the executors; a disk that fails may also hang.
            self.exit.set(exit.clone());
        }
        Phase::Ending { deadline: Instant::now() + END_TIME_MAX, exit }
    }

    fn tell_all(&self, control: Control) {
        for link in &self.links {
            link.tell(control);
        }
    }

    fn poke(&self, pulses: &mut [Pulse], passed: Duration, interval: Duration) {
        for (link, pulse) in self.links.iter().zip(pulses) {
            pulse.observe(link.shard, link.counts.beats.load(Ordering::Relaxed), passed, interval);
            // Full: the last poke was not taken yet.
            let _ = link.poke.try_send(());
        }
    }

    /// An executor reports its end from its own thread, which then still has a few steps to go.
    fn await_threads(&self, deadline: Instant) {
        while Instant::now() < deadline && self.links.iter().any(|link| !link.thread.is_finished()) {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_counted_once_and_only_while_the_supervisor_itself_runs() {
        let mut pulse = Pulse::new(ShardId(0));
        let mut reports = Vec::new();
        // (beats, milliseconds since the last look)
        let looks = [(1, 20), (1, 5_000), (2, 20), (2, 20)].into_iter();
        let stalled = std::iter::repeat_n((2, 30), 10);
        for (beats, passed_ms) in looks.chain(stalled).chain([(3, 20), (3, 20)]) {
            pulse.observe(ShardId(0), beats, Duration::from_millis(passed_ms), POKE_INTERVAL);
            reports.push(pulse.is_reported);
        }
        // A pause of five seconds of everything is no stall; of the ten looks at 30 ms the last three are.
        let expected: Vec<_> = (0..16).map(|look| (11..=13).contains(&look)).collect();
        assert_eq!(reports, expected);
    }
}
