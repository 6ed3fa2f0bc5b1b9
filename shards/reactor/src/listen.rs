//! Opening the listeners: one per shard and address, sharing the port among themselves and with nobody else.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::error::StartError;

/// Connections that wait to be accepted, per listener. The kernel caps it at net.core.somaxconn.
const BACKLOG: i32 = 1024;

/// How long a port that is in use may take to become free.
const PORT_RELEASE_MAX: Duration = Duration::from_secs(1);

/// Between two looks at such a port.
const PORT_RETRY_PAUSE: Duration = Duration::from_millis(5);

/// The listeners of all shards.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The addresses that are listened on, with their real ports, in the order given.
    pub(crate) addresses: Vec<SocketAddr>,
    /// For each shard its listeners, one per address.
    pub(crate) by_shard: Vec<Vec<TcpListener>>,
}

/// Opens `shards` non-blocking listeners on each of the addresses.
///
/// SO_REUSEPORT lets the listeners of this process share a port, but it would let those of a foreign process
/// share it too. So a guard without it listens first: the kernel lets it only when nobody else listens there, and
/// lets nobody else listen while it does. It then admits this node's listeners, and closes when the last one
/// listens; from there on they themselves keep the next process's guard out.
pub(crate) fn open_listeners(addresses: &[SocketAddr], shards: u16) -> Result<Listeners, StartError> {
    let mut listeners = Listeners { addresses: Vec::new(), by_shard: Vec::new() };
    listeners.by_shard.resize_with(usize::from(shards), Vec::new);
    for &address in addresses {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortTaken { address },
            _ => StartError::Listen { address, source },
        };
        let guard = open_guard_in_time(address).map_err(failed)?;
        let bound = guard.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
        guard.set_reuse_port(true).map_err(failed)?;
        for own in &mut listeners.by_shard {
            own.push(open_listener(bound).map_err(failed)?);
        }
        listeners.addresses.push(bound);
    }
    Ok(listeners)
}

/// The kernel closes what a killed process had in io_uring a little after the process is gone, so the port of the run
/// before may still be in use when its end is already known.
fn open_guard_in_time(address: SocketAddr) -> io::Result<Socket> {
    let deadline = Instant::now() + PORT_RELEASE_MAX;
    loop {
        match open_guard(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(PORT_RETRY_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn open_guard(address: SocketAddr) -> io::Result<Socket> {
    let socket = open_socket(address)?;
    socket.bind(&address.into())?;
    // Binding beside another bound socket is allowed; the kernel settles who has the port when it is listened on.
    socket.listen(1)?;
    Ok(socket)
}

fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open_socket(address)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn open_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Otherwise connections of the previous run that linger in TIME_WAIT keep the port from a restart.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    #[test]
    fn own_listeners_share_a_port() {
        let listeners = open_listeners(&[any(), any()], 3).expect("free ports");
        assert_eq!(listeners.by_shard.len(), 3);
        for own in &listeners.by_shard {
            let bound: Vec<_> = own.iter().map(|listener| listener.local_addr().expect("bound")).collect();
            assert_eq!(bound, listeners.addresses);
        }
        assert_ne!(listeners.addresses[0], listeners.addresses[1]);
    }

    #[test]
    fn a_second_broker_is_refused_and_a_restart_is_not() {
        let first = open_listeners(&[any()], 2).expect("a free port");
        let address = first.addresses[0];
        let second = open_listeners(&[address], 2);
        assert!(matches!(second, Err(StartError::PortTaken { address: taken }) if taken == address));
        // A connection that this side closes first stays behind in TIME_WAIT.
        let client = std::net::TcpStream::connect(address).expect("connected");
        let accepted = first.by_shard.iter().flatten().find_map(|listener| listener.accept().ok());
        drop(accepted.expect("one of the listeners has it"));
        drop(first);
        drop(client);
        open_listeners(&[address], 2).expect("free again");
    }

    #[test]
    fn foreign_listeners_are_found_whatever_they_share() {
        for (reuse_address, reuse_port) in [(false, false), (true, false), (false, true), (true, true)] {
            let foreign = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            foreign.set_reuse_address(reuse_address).expect("set");
            foreign.set_reuse_port(reuse_port).expect("set");
            foreign.bind(&any().into()).expect("bound");
            foreign.listen(1).expect("listening");
            let address = foreign.local_addr().expect("bound").as_socket().expect("an IP address");
            let opened = open_listeners(&[address], 1);
            assert!(
                matches!(opened, Err(StartError::PortTaken { .. })),
                "foreign with {reuse_address} {reuse_port}: {opened:?}"
            );
        }
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let elsewhere = "192.0.2.1:9092".parse().expect("an address");
        assert!(matches!(open_listeners(&[elsewhere], 1), Err(StartError::Listen { .. })));
    }
}
