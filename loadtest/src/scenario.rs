//! Which faults a run brings about.

use crate::{disks::Disks, network::Network, wall_clock::WallClocks};

/// Which node a fault befalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads a partition of the load topic.
    Leader,
    /// Has a replica of a partition of the load topic that another node leads.
    Follower,
    /// The metadata leader, as Metadata says.
    Controller,
    /// Coordinates the group.
    Coordinator,
}

/// Whom a node loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nodes and clients.
    All,
    /// The other nodes; clients still reach it.
    Peers,
}

/// Which way packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Both.
    Both,
    /// What the node sends.
    Outgoing,
    /// What is sent to it.
    Incoming,
}

/// What packets suffer on all ways at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// They are late, and overtake each other.
    Late,
    /// Some are lost.
    Lost,
    /// Some arrive twice.
    Doubled,
    /// Some have a changed bit, as TCP's checksum shows.
    Flipped,
    /// Some between nodes have exchanged words, which TCP's checksum does not show.
    Exchanged,
    /// A little of everything.
    Storm,
}

/// One fault, with what heals it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// kill −9, and a start some seconds later.
    Kill(Role),
    /// kill −9 of all at once, and a start of all.
    KillAll,
    /// SIGSTOP for 1 to 20 s.
    Pause(Role),
    /// SIGTERM and start, one node after the other.
    Rolling,
    /// A cut network.
    Cut(Role, Reach, Direction),
    /// A network that is cut and mended again and again.
    Flap(Role),
    /// A network that treats packets badly.
    Packets(Trouble),
    /// No space on a node's file system, while much is written.
    FullDisk(Role),
    /// A device that takes a few writes a second.
    SlowDisk(Role),
    /// A node's clock of the day is set, and set back.
    SetClock(Role),
    /// A follower is away while much is written, and catches up.
    CatchUp,
    /// The replicas of a partition go to one node and then to all again; a node is killed during each.
    Reassign,
    /// A node is killed, loses its disk, and is replaced by one that is empty.
    Replace(Role),
    /// The same with a follower, and what it costs the others that it is filled.
    Refill,
    /// Topics that are produced to as soon as they are made. No fault.
    FreshTopics,
}

/// What a step needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A network of namespaces.
    Network,
    /// A file system for each node.
    Disks,
    /// Such that can be slowed.
    SlowDisks,
    /// Clocks that can be set.
    Clocks,
}

impl Need {
    /// Why it cannot be had here, if so.
    pub fn obstacle(self) -> Option<String> {
        match self {
            Need::Network => Network::obstacle(),
            Need::Disks => Disks::obstacle(),
            Need::SlowDisks => Disks::slow_obstacle(),
            Need::Clocks => WallClocks::obstacle(),
        }
    }

    /// What goes without it.
    pub fn faults(self) -> &'static str {
        match self {
            Need::Network => "faults of the network",
            Need::Disks => "full disks",
            Need::SlowDisks => "slow disks",
            Need::Clocks => "clocks that are set",
        }
    }
}

impl Step {
    /// What it needs of the machine.
    pub fn need(self) -> Option<Need> {
        match self {
            Step::Cut(..) | Step::Flap(_) | Step::Packets(_) => Some(Need::Network),
            Step::FullDisk(_) => Some(Need::Disks),
            Step::SlowDisk(_) => Some(Need::SlowDisks),
            Step::SetClock(_) => Some(Need::Clocks),
            Step::Kill(_)
            | Step::KillAll
            | Step::Pause(_)
            | Step::Rolling
            | Step::CatchUp
            | Step::Reassign
            | Step::Replace(_)
            | Step::Refill
            | Step::FreshTopics => None,
        }
    }

    /// Whether one node is enough for it.
    pub fn works_alone(self) -> bool {
        !matches!(
            self,
            Step::Kill(Role::Follower)
                | Step::Pause(Role::Follower)
                | Step::FullDisk(Role::Follower)
                | Step::SlowDisk(Role::Follower)
                | Step::SetClock(Role::Follower)
                | Step::Cut(Role::Follower, ..)
                | Step::Cut(_, Reach::Peers, _)
                | Step::Flap(Role::Follower)
                | Step::Packets(Trouble::Exchanged)
                | Step::CatchUp
                | Step::Reassign
                | Step::Replace(_)
                | Step::Refill
        )
    }
}

/// A named sequence of faults.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// On the command line.
    pub name: &'static str,
    /// In one sentence.
    pub about: &'static str,
    /// Its faults.
    pub steps: &'static [Step],
    /// Whether they are drawn at random instead of coming in turn.
    pub is_mixed: bool,
    /// Whether producers have the client library's default time-outs and retries, and must then see no error.
    pub is_gentle: bool,
}

const fn in_turn(name: &'static str, about: &'static str, steps: &'static [Step]) -> Scenario {
    Scenario { name, about, steps, is_mixed: false, is_gentle: false }
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "mix",
        about: "all faults at random, as far as the machine lets them be made",
        is_mixed: true,
        steps: &[
            Step::Kill(Role::Leader),
            Step::Kill(Role::Follower),
            Step::Kill(Role::Controller),
            Step::Kill(Role::Coordinator),
            Step::KillAll,
            Step::Pause(Role::Leader),
            Step::Pause(Role::Follower),
            Step::Rolling,
            Step::Cut(Role::Leader, Reach::All, Direction::Both),
            Step::Cut(Role::Follower, Reach::All, Direction::Both),
            Step::Cut(Role::Leader, Reach::Peers, Direction::Both),
            Step::Cut(Role::Leader, Reach::All, Direction::Outgoing),
            Step::Cut(Role::Leader, Reach::Peers, Direction::Incoming),
            Step::Flap(Role::Leader),
            Step::Packets(Trouble::Lost),
            Step::Packets(Trouble::Storm),
            Step::FullDisk(Role::Leader),
            Step::SlowDisk(Role::Leader),
            Step::SetClock(Role::Leader),
            Step::Reassign,
            Step::Replace(Role::Leader),
        ],
        is_gentle: false,
    },
    in_turn(
        "kill",
        "kill -9 of leader, follower, metadata leader and group coordinator in turn, then of all at once",
        &[
            Step::Kill(Role::Leader),
            Step::Kill(Role::Follower),
            Step::Kill(Role::Controller),
            Step::Kill(Role::Coordinator),
            Step::KillAll,
        ],
    ),
    in_turn("kill-leader", "kill -9 of a partition's leader, in rounds", &[Step::Kill(Role::Leader)]),
    in_turn("kill-all", "kill -9 of all nodes at once, in rounds", &[Step::KillAll]),
    in_turn(
        "pause",
        "SIGSTOP for 1 to 20 s of leader, follower, metadata leader and coordinator in turn",
        &[
            Step::Pause(Role::Leader),
            Step::Pause(Role::Follower),
            Step::Pause(Role::Controller),
            Step::Pause(Role::Coordinator),
        ],
    ),
    Scenario {
        name: "rolling",
        about: "rolling restart under load; producers have default retries and must see no error",
        steps: &[Step::Rolling],
        is_mixed: false,
        is_gentle: true,
    },
    in_turn(
        "partition",
        "network partitions: leader and follower isolated, from all or from peers, one way, flapping",
        &[
            Step::Cut(Role::Leader, Reach::All, Direction::Both),
            Step::Cut(Role::Follower, Reach::All, Direction::Both),
            Step::Cut(Role::Leader, Reach::Peers, Direction::Both),
            Step::Cut(Role::Leader, Reach::All, Direction::Outgoing),
            Step::Cut(Role::Leader, Reach::All, Direction::Incoming),
            Step::Cut(Role::Leader, Reach::Peers, Direction::Outgoing),
            Step::Cut(Role::Leader, Reach::Peers, Direction::Incoming),
            Step::Cut(Role::Controller, Reach::All, Direction::Both),
            Step::Flap(Role::Leader),
            Step::Flap(Role::Follower),
        ],
    ),
    in_turn(
        "packets",
        "packets that are late, lost, doubled, overtaken, changed; on all ways",
        &[
            Step::Packets(Trouble::Late),
            Step::Packets(Trouble::Lost),
            Step::Packets(Trouble::Doubled),
            Step::Packets(Trouble::Flipped),
            Step::Packets(Trouble::Exchanged),
            Step::Packets(Trouble::Storm),
        ],
    ),
    in_turn(
        "disk-full",
        "no space on the file system of leader and follower in turn, while much is written",
        &[Step::FullDisk(Role::Leader), Step::FullDisk(Role::Follower)],
    ),
    in_turn(
        "disk-slow",
        "a device of leader and follower in turn that takes a few writes a second",
        &[Step::SlowDisk(Role::Leader), Step::SlowDisk(Role::Follower)],
    ),
    in_turn(
        "clock",
        "the clock of the day of leader, follower, metadata leader and coordinator is set by up to 45 minutes, and back",
        &[
            Step::SetClock(Role::Leader),
            Step::SetClock(Role::Follower),
            Step::SetClock(Role::Controller),
            Step::SetClock(Role::Coordinator),
        ],
    ),
    in_turn(
        "catch-up",
        "a follower is away while --away-mb are written, another loses its disk; what it costs the others when they catch up",
        &[Step::CatchUp, Step::Refill],
    ),
    in_turn(
        "membership",
        "replicas go from all nodes to one and back, and a node is replaced by an empty one, with kills meanwhile",
        &[Step::Reassign, Step::Replace(Role::Follower), Step::Reassign, Step::Replace(Role::Leader)],
    ),
    Scenario {
        name: "fresh",
        about: "each partition of 100 new topics is produced to at once, through any node; no error at all",
        steps: &[Step::FreshTopics],
        is_mixed: false,
        is_gentle: true,
    },
    Scenario {
        name: "calm",
        about: "load without faults; producers must see no error",
        steps: &[],
        is_mixed: false,
        is_gentle: true,
    },
];

/// The scenario of this name.
pub fn find(name: &str) -> Option<Scenario> {
    SCENARIOS.iter().copied().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// The steps that can be done with so many nodes and what can be had.
    pub fn possible(&self, nodes: u8, can_have: impl Fn(Need) -> bool) -> Vec<Step> {
        let is_possible =
            |step: &Step| (nodes > 1 || step.works_alone()) && step.need().is_none_or(&can_have);
        self.steps.iter().copied().filter(is_possible).collect()
    }

    /// What its steps need, once each.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs: Vec<_> = self.steps.iter().filter_map(|step| step.need()).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_most_scenarios_have_something_to_do_on_one_node() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[..index].iter().all(|other| other.name != scenario.name));
            assert_eq!(find(scenario.name).unwrap().about, scenario.about);
            let is_idle = scenario.steps.is_empty() || ["catch-up", "membership"].contains(&scenario.name);
            assert_eq!(scenario.possible(1, |_| true).is_empty(), is_idle, "{}", scenario.name);
            assert_eq!(scenario.possible(3, |_| true), scenario.steps);
        }
    }

    #[test]
    fn what_the_machine_does_not_have_is_left_out() {
        assert!(find("partition").unwrap().possible(3, |_| false).is_empty());
        let mix = find("mix").unwrap();
        assert_eq!(mix.needs(), [Need::Network, Need::Disks, Need::SlowDisks, Need::Clocks]);
        assert!(mix.possible(3, |need| need != Need::Network).contains(&Step::SetClock(Role::Leader)));
        assert!(mix.possible(3, |_| false).iter().all(|step| step.need().is_none()));
    }
}
