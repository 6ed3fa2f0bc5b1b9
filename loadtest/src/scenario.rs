//! Which faults a run brings about.

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
}

impl Step {
    /// Whether it needs namespaces.
    pub fn needs_network(self) -> bool {
        matches!(self, Step::Cut(..) | Step::Flap(_))
    }

    /// Whether one node is enough for it.
    pub fn works_alone(self) -> bool {
        !matches!(
            self,
            Step::Kill(Role::Follower)
                | Step::Pause(Role::Follower)
                | Step::Cut(Role::Follower, ..)
                | Step::Cut(_, Reach::Peers, _)
                | Step::Flap(Role::Follower)
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
        about: "all faults at random (those of the network where namespaces can be made)",
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
    /// The steps that can be done with so many nodes and with or without namespaces.
    pub fn possible(&self, nodes: u8, has_network: bool) -> Vec<Step> {
        let is_possible =
            |step: &Step| (nodes > 1 || step.works_alone()) && (has_network || !step.needs_network());
        self.steps.iter().copied().filter(is_possible).collect()
    }

    /// Whether any step needs namespaces.
    pub fn wants_network(&self) -> bool {
        self.steps.iter().any(|step| step.needs_network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_scenario_has_something_to_do_on_one_node() {
        for (index, scenario) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[..index].iter().all(|other| other.name != scenario.name));
            assert_eq!(find(scenario.name).unwrap().about, scenario.about);
            assert_eq!(scenario.possible(1, true).is_empty(), scenario.steps.is_empty(), "{}", scenario.name);
            assert_eq!(scenario.possible(3, true), scenario.steps);
        }
    }

    #[test]
    fn without_namespaces_nothing_is_cut() {
        assert!(find("partition").unwrap().possible(3, false).is_empty());
        assert!(find("mix").unwrap().possible(3, false).iter().all(|step| !step.needs_network()));
    }
}
