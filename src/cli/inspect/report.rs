//! What is shown of a cluster, computed from what its brokers said.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::Report;
use super::observed::{Answer, Observed, Partition};
use super::table::Table;
use crate::exit::Error;

/// Partitions that one line names; more are counted.
const NAMED_MAX: usize = 5;

/// `status`.
#[derive(Debug, Serialize)]
pub struct Status {
    healthy: bool,
    cluster_id: Answer<String>,
    nodes_registered: usize,
    nodes_alive: usize,
    topics: usize,
    partitions: usize,
    /// Not all replicas are in sync.
    under_replicated: usize,
    /// No majority of the replicas is alive.
    offline: usize,
    /// No leader is known.
    leaderless: usize,
    /// Topics that could not be described.
    undescribed: usize,
}

impl Status {
    /// `unreachable` names nodes that the others still take for alive, and that do not answer: they are not counted as alive.
    pub fn new(observed: &Observed, unreachable: &[(i32, String)]) -> Status {
        let heard = observed.nodes.iter().filter(|node| node.is_alive).count();
        let count = |is: fn(&Partition) -> bool| observed.partitions.iter().filter(|part| is(part)).count();
        let mut status = Status {
            healthy: false,
            cluster_id: observed.cluster_id.clone(),
            nodes_registered: observed.nodes.len(),
            nodes_alive: heard - unreachable.len(),
            topics: observed.topics,
            partitions: observed.partitions.len(),
            under_replicated: count(Partition::is_under_replicated),
            offline: count(Partition::is_offline),
            leaderless: count(|partition| partition.leader.is_none()),
            undescribed: observed.undescribed.len(),
        };
        status.healthy = status.problems().is_empty();
        status
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Answer::Unknown { unknown } = &self.cluster_id {
            problems.push(unknown.clone());
        }
        let down = self.nodes_registered - self.nodes_alive;
        for (count, what) in [
            (down, "nodes not alive"),
            (self.under_replicated, "partitions under-replicated"),
            (self.offline, "partitions offline"),
            (self.leaderless, "partitions without a leader"),
            (self.undescribed, "topics not described"),
        ] {
            if count > 0 {
                problems.push(format!("{count} {what}"));
            }
        }
        problems
    }

    /// # Errors
    ///
    /// [`Error::Unhealthy`] unless all is well.
    pub fn outcome(&self) -> Result<(), Error> {
        outcome(self.problems())
    }
}

fn outcome(problems: Vec<String>) -> Result<(), Error> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(Error::Unhealthy(problems.join(", "))),
    }
}

impl Report for Status {
    fn text(&self) -> String {
        let id = answer_text(&self.cluster_id);
        let state = if self.healthy { "healthy" } else { "not healthy" };
        let mut text = format!("cluster {id}: {state}\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<17} {value}");
        };
        line("nodes", format!("{} registered, {} alive", self.nodes_registered, self.nodes_alive));
        line("topics", self.topics.to_string());
        line("partitions", self.partitions.to_string());
        line("under-replicated", self.under_replicated.to_string());
        line("offline", self.offline.to_string());
        line("leaderless", self.leaderless.to_string());
        if self.undescribed > 0 {
            line("topics unknown", self.undescribed.to_string());
        }
        text
    }
}

/// `nodes`.
#[derive(Debug, Serialize)]
pub struct Nodes {
    nodes: Vec<NodeRow>,
}

#[derive(Debug, Serialize)]
struct NodeRow {
    node: i32,
    address: String,
    rack: Option<String>,
    alive: bool,
    leaders: usize,
    replicas: usize,
    bytes: Answer<u64>,
    /// Whether it is to be emptied (`broker.draining`).
    draining: Answer<bool>,
}

impl Nodes {
    pub fn new(
        observed: &Observed,
        mut bytes: BTreeMap<i32, Answer<u64>>,
        mut draining: BTreeMap<i32, Answer<bool>>,
    ) -> Nodes {
        let not_asked = "it was not asked";
        let count =
            |is: &dyn Fn(&Partition) -> bool| observed.partitions.iter().filter(|part| is(part)).count();
        let rows = observed.nodes.iter().map(|node| NodeRow {
            node: node.id,
            address: node.address.clone(),
            rack: node.rack.clone(),
            alive: node.is_alive,
            leaders: count(&|partition| partition.leader == Some(node.id)),
            replicas: count(&|partition| partition.replicas.contains(&node.id)),
            bytes: bytes.remove(&node.id).unwrap_or_else(|| Answer::unknown(not_asked)),
            draining: draining.remove(&node.id).unwrap_or_else(|| Answer::unknown(not_asked)),
        });
        Nodes { nodes: rows.collect() }
    }
}

impl Report for Nodes {
    fn text(&self) -> String {
        let head = ["node", "address", "rack", "alive", "draining", "leaders", "replicas", "bytes"];
        let mut table = Table::new(&head);
        let mut why = String::new();
        for row in &self.nodes {
            let draining = match &row.draining {
                Answer::Known(draining) => yes_or_no(*draining),
                Answer::Unknown { .. } => "unknown",
            };
            table.row([
                row.node.to_string(),
                row.address.clone(),
                row.rack.clone().unwrap_or_else(|| "-".to_owned()),
                yes_or_no(row.alive).to_owned(),
                draining.to_owned(),
                row.leaders.to_string(),
                row.replicas.to_string(),
                answer_text(&row.bytes),
            ]);
            if let Answer::Unknown { unknown } = &row.bytes {
                let _ = writeln!(why, "the bytes of node {} are unknown: {unknown}", row.node);
            }
            if let Answer::Unknown { unknown } = &row.draining {
                let _ = writeln!(why, "whether node {} is draining is unknown: {unknown}", row.node);
            }
        }
        table.text() + &why
    }
}

/// `partitions`.
#[derive(Debug, Serialize)]
pub struct Partitions {
    partitions: Vec<PartitionRow>,
    undescribed: Vec<Undescribed>,
}

#[derive(Debug, Serialize)]
struct PartitionRow {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    leader_epoch: Option<i32>,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    offline: Vec<i32>,
    end_offset: Answer<i64>,
}

#[derive(Clone, Debug, Serialize)]
struct Undescribed {
    topic: String,
    unknown: String,
}

fn undescribed(observed: &Observed) -> Vec<Undescribed> {
    let row = |(topic, why): &(String, String)| Undescribed { topic: topic.clone(), unknown: why.clone() };
    observed.undescribed.iter().map(row).collect()
}

fn undescribed_text(topics: &[Undescribed]) -> String {
    topics
        .iter()
        .map(|row| format!("the partitions of {} are unknown: {}\n", row.topic, row.unknown))
        .collect()
}

impl Partitions {
    pub fn new(observed: &Observed, ends: &BTreeMap<(String, i32), Answer<i64>>) -> Partitions {
        let rows = observed.partitions.iter().map(|partition| PartitionRow {
            topic: partition.topic.clone(),
            partition: partition.index,
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            replicas: partition.replicas.clone(),
            isr: partition.in_sync.clone(),
            offline: partition.offline.clone(),
            end_offset: ends
                .get(&(partition.topic.clone(), partition.index))
                .cloned()
                .unwrap_or_else(|| Answer::unknown("it was not asked for")),
        });
        Partitions { partitions: rows.collect(), undescribed: undescribed(observed) }
    }
}

impl Report for Partitions {
    fn text(&self) -> String {
        let head = ["topic", "partition", "leader", "epoch", "replicas", "in sync", "offline", "end offset"];
        let mut table = Table::new(&head);
        let mut why = String::new();
        for row in &self.partitions {
            table.row([
                row.topic.clone(),
                row.partition.to_string(),
                number_or_none(row.leader),
                number_or_none(row.leader_epoch),
                list(&row.replicas),
                list(&row.isr),
                list(&row.offline),
                answer_text(&row.end_offset),
            ]);
            if let Answer::Unknown { unknown } = &row.end_offset {
                let _ = writeln!(why, "the end of {}-{} is unknown: {unknown}", row.topic, row.partition);
            }
        }
        table.text() + &why + &undescribed_text(&self.undescribed)
    }
}

/// `isr`: partitions with replicas that are not in sync.
#[derive(Debug, Serialize)]
pub struct Isr {
    partitions: usize,
    under_replicated: Vec<IsrRow>,
    undescribed: Vec<Undescribed>,
}

#[derive(Debug, Serialize)]
struct IsrRow {
    topic: String,
    partition: i32,
    leader: Option<i32>,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    missing: Vec<Missing>,
}

/// A replica that is not in sync.
#[derive(Debug, Serialize)]
struct Missing {
    node: i32,
    reason: &'static str,
}

impl Isr {
    pub fn new(observed: &Observed) -> Isr {
        let missing = |partition: &Partition| {
            let lacking = partition.replicas.iter().filter(|node| !partition.in_sync.contains(node));
            let why = |node: &i32| if partition.offline.contains(node) { "not alive" } else { "behind" };
            lacking.map(|node| Missing { node: *node, reason: why(node) }).collect()
        };
        let lacking = observed.partitions.iter().filter(|partition| partition.is_under_replicated());
        let rows = lacking.map(|partition| IsrRow {
            topic: partition.topic.clone(),
            partition: partition.index,
            leader: partition.leader,
            replicas: partition.replicas.clone(),
            isr: partition.in_sync.clone(),
            missing: missing(partition),
        });
        Isr {
            partitions: observed.partitions.len(),
            under_replicated: rows.collect(),
            undescribed: undescribed(observed),
        }
    }
}

impl Report for Isr {
    fn text(&self) -> String {
        let unknown = undescribed_text(&self.undescribed);
        if self.under_replicated.is_empty() {
            return format!("all replicas of {} partitions are in sync\n{unknown}", self.partitions);
        }
        let mut table = Table::new(&["topic", "partition", "leader", "replicas", "in sync", "missing"]);
        for row in &self.under_replicated {
            let missing = row.missing.iter().map(|missing| format!("{} ({})", missing.node, missing.reason));
            table.row([
                row.topic.clone(),
                row.partition.to_string(),
                number_or_none(row.leader),
                list(&row.replicas),
                list(&row.isr),
                missing.collect::<Vec<_>>().join(", "),
            ]);
        }
        table.text() + &unknown
    }
}

/// `health`.
#[derive(Debug, Serialize)]
pub struct Health {
    healthy: bool,
    checks: Vec<Check>,
}

/// One thing that must be so.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    ok: bool,
    found: String,
}

impl Health {
    /// `unreachable` names nodes that are alive and do not answer clients.
    pub fn new(observed: &Observed, unreachable: &[(i32, String)]) -> Health {
        let (registered, down): (usize, Vec<i32>) = (
            observed.nodes.len(),
            observed.nodes.iter().filter(|node| !node.is_alive).map(|node| node.id).collect(),
        );
        let alive = registered - down.len();
        let (id_known, id) = match &observed.cluster_id {
            Answer::Known(id) => (true, format!("its id is {id}")),
            Answer::Unknown { unknown } => (false, unknown.clone()),
        };
        let mut nodes = format!("{alive} of {registered} registered nodes are alive");
        if !down.is_empty() {
            nodes += &format!("; not alive: {}", list(&down));
        }
        let reached = match unreachable {
            [] => "every node that is alive answers clients".to_owned(),
            failures => {
                failures.iter().map(|(id, why)| format!("node {id}: {why}")).collect::<Vec<_>>().join("; ")
            }
        };
        let checks = vec![
            Check { check: "cluster", ok: id_known, found: id },
            Check { check: "nodes", ok: down.is_empty(), found: nodes },
            Check {
                check: "majority",
                ok: alive * 2 > registered,
                found: format!("{alive} nodes are alive of {registered}, {} are needed", registered / 2 + 1),
            },
            Check { check: "clients", ok: unreachable.is_empty(), found: reached },
            partitions_check(observed, "leaders", "have no leader", |partition| partition.leader.is_none()),
            partitions_check(
                observed,
                "available",
                "have no majority of their replicas alive",
                Partition::is_offline,
            ),
            partitions_check(
                observed,
                "in-sync",
                "have replicas that are not in sync",
                Partition::is_under_replicated,
            ),
            Check {
                check: "described",
                ok: observed.undescribed.is_empty(),
                found: format!("{} topics could not be described", observed.undescribed.len()),
            },
        ];
        Health { healthy: checks.iter().all(|check| check.ok), checks }
    }

    /// # Errors
    ///
    /// [`Error::Unhealthy`] unless all is well.
    pub fn outcome(&self) -> Result<(), Error> {
        let failed = self.checks.iter().filter(|check| !check.ok);
        outcome(failed.map(|check| check.found.clone()).collect())
    }
}

/// That no partition is so; names the first that are.
fn partitions_check(
    observed: &Observed,
    check: &'static str,
    what: &str,
    is_bad: impl Fn(&Partition) -> bool,
) -> Check {
    let bad: Vec<&Partition> = observed.partitions.iter().filter(|partition| is_bad(partition)).collect();
    let mut found = format!("{} of {} partitions {what}", bad.len(), observed.partitions.len());
    if !bad.is_empty() {
        let named =
            bad.iter().take(NAMED_MAX).map(|partition| format!("{}-{}", partition.topic, partition.index));
        let more = if bad.len() > NAMED_MAX { ", ..." } else { "" };
        found += &format!(": {}{more}", named.collect::<Vec<_>>().join(", "));
    }
    Check { check, ok: bad.is_empty(), found }
}

impl Report for Health {
    fn text(&self) -> String {
        let line = |check: &Check| {
            let outcome = if check.ok { "ok" } else { "FAIL" };
            format!("{outcome:<4}  {:<9}  {}\n", check.check, check.found)
        };
        self.checks.iter().map(line).collect()
    }
}

fn answer_text<T: ToString>(answer: &Answer<T>) -> String {
    match answer {
        Answer::Known(value) => value.to_string(),
        Answer::Unknown { .. } => "unknown".to_owned(),
    }
}

fn yes_or_no(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

fn number_or_none(number: Option<i32>) -> String {
    number.map_or("none".to_owned(), |number| number.to_string())
}

fn list(nodes: &[i32]) -> String {
    match nodes {
        [] => "-".to_owned(),
        nodes => nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(","),
    }
}

#[cfg(test)]
mod tests;
