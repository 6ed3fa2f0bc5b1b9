//! A network of namespaces: one for each node, each joined by a [`Relay`] of packets to the others and to the clients,
//! who stay where this process is. It needs root, iproute2 and TUN devices.

use std::{
    ffi::c_short,
    fs::{self, File, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use crate::{
    cleanup, command,
    error::LoadtestError,
    relay::{End, Relay, Weather},
};

const TUN: &str = "/dev/net/tun";
/// What a device may hold for the relay, which is one thread.
const QUEUE_PACKETS: &str = "10000";

/// The namespaces of one run and what joins them. [`cleanup::run`] removes them; the devices go with this process.
#[derive(Debug)]
pub struct Network {
    process: u32,
    prefix: [u8; 2],
    nodes: u8,
    relay: Relay,
}

impl Network {
    /// Why no network can be made here, if so.
    pub fn obstacle() -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("network namespaces need root".to_owned());
        }
        if !Path::new(TUN).exists() {
            return Some(format!("there is no {TUN}"));
        }
        let is_there = command::is_there("ip", "-V");
        (!is_there).then(|| "there is no `ip` (iproute2)".to_owned())
    }

    /// Makes namespaces for the nodes 1 to `nodes`.
    ///
    /// # Errors
    ///
    /// [`LoadtestError::Command`], [`LoadtestError::File`]. What was made by then is removed with the rest.
    pub fn create(nodes: u8, seed: u64) -> Result<Network, LoadtestError> {
        assert!(
            (1..End::Clients.number()).contains(&nodes),
            "nodes are numbered from 1 and fit into a subnet"
        );
        let (process, prefix) = (std::process::id(), free_prefix()?);
        let mut devices = Vec::new();
        for end in ends(nodes) {
            devices.push((end, create_end(process, prefix, end)?));
        }
        let relay = Relay::start(devices, seed)
            .map_err(|source| LoadtestError::Process { what: "starting the relay".to_owned(), source })?;
        Ok(Network { process, prefix, nodes, relay })
    }

    /// The address of a node.
    pub fn address(&self, node: u8) -> IpAddr {
        address(self.prefix, End::Node(node))
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: u8) -> String {
        namespace(self.process, node)
    }

    /// All ends.
    pub fn ends(&self) -> impl Iterator<Item = End> + use<> {
        ends(self.nodes)
    }

    /// How packets from one end to another fare from now on.
    pub fn set(&self, from: End, to: End, weather: Weather) {
        self.relay.set(from, to, weather);
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        self.relay.heal();
    }
}

fn ends(nodes: u8) -> impl Iterator<Item = End> {
    (1..=nodes).map(End::Node).chain([End::Clients])
}

fn address(prefix: [u8; 2], end: End) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, prefix[0], prefix[1], end.number()))
}

fn namespace(process: u32, node: u8) -> String {
    format!("chronik-{process}-{node}")
}

/// Makes the device of an end, in its namespace. Returns its other side.
fn create_end(process: u32, prefix: [u8; 2], end: End) -> Result<File, LoadtestError> {
    let device = format!("cl{process}n{}", end.number());
    let file = open_tun(&device).map_err(|source| LoadtestError::File { path: TUN.into(), source })?;
    let namespace = match end {
        End::Clients => None,
        End::Node(node) => Some(namespace(process, node)),
    };
    let within: Vec<&str> = namespace.iter().flat_map(|namespace| ["-n", namespace]).collect();
    if let Some(namespace) = &namespace {
        cleanup::note_namespace(namespace);
        ip(&["netns", "add", namespace])?;
        ip(&["link", "set", &device, "netns", namespace])?;
        ip(&[&within[..], &["link", "set", "lo", "up"]].concat())?;
    }
    let network = format!("{}/24", address(prefix, end));
    ip(&[&within[..], &["addr", "add", &network, "dev", &device]].concat())?;
    ip(&[&within[..], &["link", "set", &device, "txqueuelen", QUEUE_PACKETS, "up"]].concat())?;
    Ok(file)
}

/// A device of this name, which goes when the file is closed. Linux, Documentation/networking/tuntap.rst.
fn open_tun(device: &str) -> io::Result<File> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        flags: c_short,
        rest: [u8; 22],
    }
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(TUN)?;
    let flags = c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two small flags");
    let mut request = Request { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
    assert!(device.len() < libc::IFNAMSIZ, "a device's name is short");
    request.name[..device.len()].copy_from_slice(device.as_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is laid out and as long as.
    let code = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Whether a process in a namespace listens on a port.
///
/// # Errors
///
/// [`LoadtestError::Command`].
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

fn ip(arguments: &[&str]) -> Result<String, LoadtestError> {
    command::run("ip", arguments)
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
