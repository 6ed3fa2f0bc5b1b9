//! What `/health` says.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// The state of the node, shared between the thread that starts and stops it and the monitoring endpoint.
#[derive(Debug)]
pub struct Health(Mutex<Report>);

#[derive(Clone, Debug, Serialize)]
struct Report {
    node_id: i32,
    cluster_id: Option<String>,
    shards_serving: u16,
    status: Status,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Starting,
    Joining,
    Serving,
    Stopping,
}

impl Health {
    /// A node that starts.
    pub fn new(node_id: i32) -> Health {
        Health(Mutex::new(Report { node_id, cluster_id: None, shards_serving: 0, status: Status::Starting }))
    }

    /// All shards run, and look for the cluster.
    pub fn on_joining(&self, shards: u16) {
        self.change(|report| {
            report.shards_serving = shards;
            report.status = Status::Joining;
        });
    }

    /// All shards serve, and the node is one of its cluster. Nothing changes when it is being stopped meanwhile.
    pub fn on_serving(&self, cluster_id: &str, shards: u16) {
        self.change(|report| {
            if report.status != Status::Stopping {
                report.cluster_id = Some(cluster_id.to_owned());
                report.shards_serving = shards;
                report.status = Status::Serving;
            }
        });
    }

    /// The node stops or has ended.
    pub fn on_stopping(&self) {
        self.change(|report| {
            report.shards_serving = 0;
            report.status = Status::Stopping;
        });
    }

    fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether the node serves, and everything about it as a line of JSON.
    pub fn report(&self) -> (bool, String) {
        let report = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let json = serde_json::to_string(&report).expect("a report of plain fields is JSON");
        (report.status == Status::Serving, json + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let health = Health::new(3);
        let check =
            |is_healthy: bool, json: &str| assert_eq!(health.report(), (is_healthy, json.to_owned() + "\n"));
        check(false, r#"{"node_id":3,"cluster_id":null,"shards_serving":0,"status":"starting"}"#);
        health.on_joining(2);
        check(false, r#"{"node_id":3,"cluster_id":null,"shards_serving":2,"status":"joining"}"#);
        health.on_serving("x\"y", 2);
        check(true, r#"{"node_id":3,"cluster_id":"x\"y","shards_serving":2,"status":"serving"}"#);
        health.on_stopping();
        health.on_serving("z", 2);
        check(false, r#"{"node_id":3,"cluster_id":"x\"y","shards_serving":0,"status":"stopping"}"#);
    }
}
