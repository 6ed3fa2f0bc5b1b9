//! A network of namespaces: one for each node, joined by a bridge in the namespace where the clients are.
//!
//! Traffic is cut one way between two ends by giving the sender a wrong hardware address for the receiver: its
//! packets go out and nobody takes them, as on a broken wire, while the other direction works. That needs neither a
//! packet filter nor kernel modules, only iproute2 and root.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    process::Command,
};

use crate::{cleanup, error::LoadtestError};

/// One end of the network: a node, or everything outside of the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Where the clients are.
    Clients,
    /// A node, from 1.
    Node(u8),
}

const CLIENTS_NUMBER: u8 = 254;
const NOBODY_NUMBER: u8 = 255;

impl End {
    /// The last byte of its addresses.
    fn number(self) -> u8 {
        match self {
            End::Clients => CLIENTS_NUMBER,
            End::Node(node) => node,
        }
    }
}

/// The namespaces and the bridge of one run. [`cleanup::run`] removes them.
#[derive(Debug)]
pub struct Network {
    process: u32,
    prefix: [u8; 2],
    nodes: u8,
    /// What is cut now, as (sender, receiver).
    cuts: Vec<(End, End)>,
}

impl Network {
    /// Why no network can be made here, if so.
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".to_owned());
        }
        match Command::new("ip").arg("-V").output() {
            Ok(output) if output.status.success() => None,
            Ok(_) | Err(_) => Some("there is no `ip` (iproute2)".to_owned()),
        }
    }

    /// Makes namespaces for the nodes 1 to `nodes`.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Network`]. What was made by then is removed with the rest.
    pub fn create(nodes: u8) -> Result<Network, LoadtestError> {
        assert!((1..CLIENTS_NUMBER).contains(&nodes), "nodes are numbered from 1 and fit into a subnet");
        let network =
            Network { process: std::process::id(), prefix: free_prefix()?, nodes, cuts: Vec::new() };
        network.create_bridge()?;
        for node in 1..=nodes {
            network.create_node(node)?;
        }
        for from in network.ends() {
            for to in network.ends().filter(|&to| to != from) {
                network.set_neighbour(from, to, to.number())?;
            }
        }
        Ok(network)
    }

    /// The address of a node.
    pub fn address(&self, node: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, self.prefix[0], self.prefix[1], node))
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: u8) -> String {
        format!("chronik-{}-{node}", self.process)
    }

    /// All ends.
    pub fn ends(&self) -> impl Iterator<Item = End> + use<> {
        (1..=self.nodes).map(End::Node).chain([End::Clients])
    }

    /// Loses everything that `from` sends to `to` from now on.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Network`].
    pub fn cut(&mut self, from: End, to: End) -> Result<(), LoadtestError> {
        assert!(from != to, "an end always reaches itself");
        self.set_neighbour(from, to, NOBODY_NUMBER)?;
        self.cuts.push((from, to));
        Ok(())
    }

    /// Mends everything that is cut.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Network`].
    pub fn heal(&mut self) -> Result<(), LoadtestError> {
        while let Some(&(from, to)) = self.cuts.last() {
            self.set_neighbour(from, to, to.number())?;
            self.cuts.pop();
        }
        Ok(())
    }

    fn bridge(&self) -> String {
        format!("cl{}b", self.process)
    }

    fn hardware_address(&self, number: u8) -> String {
        let [.., high, low] = self.process.to_be_bytes();
        // The first byte says: locally administered, for one receiver.
        format!("02:43:4b:{high:02x}:{low:02x}:{number:02x}")
    }

    fn set_neighbour(&self, from: End, to: End, number: u8) -> Result<(), LoadtestError> {
        let address = self.address(to.number()).to_string();
        let hardware = self.hardware_address(number);
        let neighbour = ["neigh", "replace", &address, "lladdr", &hardware, "nud", "permanent", "dev"];
        match from {
            End::Clients => ip(&[&neighbour[..], &[&self.bridge()]].concat())?,
            End::Node(node) => ip(&[&["-n", &self.namespace(node)][..], &neighbour, &["eth0"]].concat())?,
        };
        Ok(())
    }

    fn create_bridge(&self) -> Result<(), LoadtestError> {
        let bridge = self.bridge();
        cleanup::note_link(&bridge);
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["link", "set", &bridge, "address", &self.hardware_address(CLIENTS_NUMBER), "up"])?;
        ip(&["addr", "add", &format!("{}/24", self.address(CLIENTS_NUMBER)), "dev", &bridge])?;
        Ok(())
    }

    fn create_node(&self, node: u8) -> Result<(), LoadtestError> {
        let (namespace, link) = (self.namespace(node), format!("cl{}v{node}", self.process));
        let hardware = self.hardware_address(node);
        cleanup::note_namespace(&namespace);
        ip(&["netns", "add", &namespace])?;
        cleanup::note_link(&link);
        ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "address", &hardware])?;
        ip(&["-n", &namespace, "addr", "add", &format!("{}/24", self.address(node)), "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["link", "set", &link, "master", &self.bridge(), "up"])?;
        Ok(())
    }
}

/// Whether a process in a namespace listens on a port.
///
/// # Errors
///
/// [`LoadtestError::Network`].
pub fn is_listening(namespace: &str, port: u16) -> Result<bool, LoadtestError> {
    let table = ip(&["netns", "exec", namespace, "cat", "/proc/net/tcp"])?;
    Ok(table.lines().any(|line| is_listener(line, port)))
}

/// Whether a line of /proc/net/tcp is a listener on a port.
fn is_listener(line: &str, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().and_then(|address| address.rsplit(':').next());
    local == Some(&format!("{port:04X}")) && fields.nth(1) == Some(LISTEN)
}

/// Runs `ip` and turns its complaint into an error. Returns what it printed.
fn ip(arguments: &[&str]) -> Result<String, LoadtestError> {
    let failed =
        |message: String| LoadtestError::Network { command: format!("ip {}", arguments.join(" ")), message };
    let output = Command::new("ip").args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// The second and third byte of a subnet 10.x.y.0/24 that no route of this machine names.
fn free_prefix() -> Result<[u8; 2], LoadtestError> {
    const ROUTES: &str = "/proc/net/route";
    let routes =
        fs::read_to_string(ROUTES).map_err(|source| LoadtestError::File { path: ROUTES.into(), source })?;
    let mut start = std::process::id();
    loop {
        let prefix = [200 + (start / 256 % 50) as u8, (start % 256) as u8];
        // The kernel prints the bytes of an address backwards.
        if !routes.contains(&format!("\t00{:02X}{:02X}0A\t", prefix[1], prefix[0])) {
            return Ok(prefix);
        }
        start += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_found_by_port_and_state() {
        let listener =
            "   0: 0100C80A:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1";
        let connection =
            "   1: 0100C80A:2384 FE00C80A:9C40 01 00000000:00000000 00:00000000 00000000     0        0 2";
        assert!(is_listener(listener, 0x2384));
        assert!(!is_listener(listener, 0x2385));
        assert!(!is_listener(connection, 0x2384));
        assert!(!is_listener("  sl  local_address rem_address   st tx_queue rx_queue", 0x2384));
    }
}
