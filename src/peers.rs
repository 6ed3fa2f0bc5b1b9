//! The other brokers of a cluster, as options name them.

use serde::Deserialize;
use shard::PeerAddress;
use types::NodeId;

use crate::address::bare_host;

/// A peer in the configuration file.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(
    untagged,
    expecting = "a peer is \"id@host:port\", or a table with node-id and address or host and port"
)]
pub enum PeerEntry {
    /// As on the command line.
    Text(String),
    /// One of `[[peers]]`.
    Table(PeerTable),
}

/// A table `[[peers]]`: the address either whole or in its parts.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PeerTable {
    node_id: i32,
    address: Option<String>,
    host: Option<String>,
    port: Option<u16>,
}

impl PeerEntry {
    /// Where the peer is.
    ///
    /// # Errors
    ///
    /// What is wrong with the entry, in a line.
    pub fn address(&self) -> Result<PeerAddress, String> {
        let PeerTable { node_id, address, host, port } = match self {
            PeerEntry::Text(text) => return parse(text),
            PeerEntry::Table(table) => table,
        };
        let found = match (address, host, port) {
            (Some(address), None, None) => host_and_port(address),
            (None, Some(host), Some(port)) => Some((bare_host(host).to_owned(), *port)),
            _ => None,
        };
        found.and_then(|(host, port)| peer(*node_id, host, port)).ok_or_else(|| {
            format!(
                "peer {node_id} in the configuration file needs either host and port, or address = \"host:port\""
            )
        })
    }
}

/// Reads `ID@HOST:PORT`.
///
/// # Errors
///
/// That it is none, in a line.
pub fn parse(text: &str) -> Result<PeerAddress, String> {
    let parsed = text.trim().split_once('@').and_then(|(id, address)| {
        let (host, port) = host_and_port(address)?;
        peer(id.trim().parse().ok()?, host, port)
    });
    parsed.ok_or_else(|| format!("peer {text:?} is not ID@HOST:PORT"))
}

fn peer(id: i32, host: String, port: u16) -> Option<PeerAddress> {
    let is_possible = id >= 0 && !host.is_empty() && port != 0;
    is_possible.then_some(PeerAddress { node: NodeId(id), host, port })
}

/// Reads `HOST:PORT`, where an IPv6 address stands in brackets.
pub fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.trim().rsplit_once(':')?;
    let is_whole = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
    Some((bare_host(host).to_owned(), port.parse().ok()?)).filter(|_| is_whole)
}

/// Checks that the peers make a cluster together with this node, whose data directory is of one that was begun with the
/// nodes `stored`. A node that was alone before may be its first, and others are added later.
///
/// # Errors
///
/// What is wrong with them, in a line.
pub fn check(own: NodeId, peers: &[PeerAddress], stored: Option<&[NodeId]>) -> Result<(), String> {
    let refusal = match stored {
        _ if !peers.is_empty() => None,
        Some(voters) if voters == [own] => None,
        Some(_) => Some("the data directory is of a node of a cluster: name the other nodes with --peers"),
        None => Some(
            "raft-cluster without --peers would be a single node: use `chronik-server standalone`, or \
             name the others with --peers",
        ),
    };
    if let Some(refusal) = refusal {
        return Err(refusal.to_owned());
    }
    for (at, peer) in peers.iter().enumerate() {
        if peer.node == own {
            return Err(format!(
                "--peers names node {own}, which is this one (--node-id): name the others only"
            ));
        }
        if peers[..at].iter().any(|other| other.node == peer.node) {
            return Err(format!("--peers names node {} twice", peer.node));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_parsed_or_named() {
        let peer = |node, host: &str, port| PeerAddress { node: NodeId(node), host: host.to_owned(), port };
        assert_eq!(parse("2@localhost:9292"), Ok(peer(2, "localhost", 9292)));
        assert_eq!(parse(" 0@[fe80::1]:1 "), Ok(peer(0, "fe80::1", 1)));
        for wrong in
            ["", "2", "2@", "2@b", "2@b:", "2@b:0", "2@b:70000", "2@:1", "-1@b:1", "x@b:1", "2@fe80::1:1"]
        {
            assert_eq!(parse(wrong), Err(format!("peer {wrong:?} is not ID@HOST:PORT")));
        }
    }

    #[test]
    fn peers_that_make_no_cluster_are_refused() {
        let peers = |ids: &[i32]| -> Vec<PeerAddress> {
            ids.iter().map(|id| parse(&format!("{id}@h:1")).expect("well-formed")).collect()
        };
        let check = |own: i32, peers: &[PeerAddress]| check(NodeId(own), peers, None);
        assert_eq!(check(1, &peers(&[2, 3])), Ok(()));
        assert!(check(1, &[]).expect_err("alone").contains("standalone"));
        let known = |stored: &[NodeId]| super::check(NodeId(1), &[], Some(stored));
        assert_eq!(known(&[NodeId(1)]), Ok(()));
        for of_cluster in [&[][..], &[1, 2, 3].map(NodeId)] {
            assert!(known(of_cluster).is_err_and(|why| !why.contains("standalone")));
        }
        assert!(check(2, &peers(&[2, 3])).expect_err("itself").contains("node 2, which is this one"));
        assert_eq!(check(1, &peers(&[2, 3, 2])), Err("--peers names node 2 twice".to_owned()));
    }
}
