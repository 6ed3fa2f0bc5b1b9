//! Where to listen, and what to tell clients.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};

use crate::exit::Error;

/// A host without the brackets that an IPv6 address may have.
pub fn bare_host(host: &str) -> &str {
    let host = host.trim();
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// A host and a port as clients write them.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The addresses that a host name stands for on this machine. Port 0 is replaced by one that is free on the first.
///
/// # Errors
///
/// [`Error::Usage`] when the name means nothing, [`Error::CannotListen`] when none of its addresses is of this machine.
pub fn resolve(host: &str, port: u16, option: &'static str) -> Result<Vec<SocketAddr>, Error> {
    let host = bare_host(host);
    let unknown = |why: String| {
        Error::Usage(format!("--{option} {host:?} is neither an address nor a known host name: {why}"))
    };
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in (host, port).to_socket_addrs().map_err(|error| unknown(error.to_string()))? {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    // A name may have addresses that this machine lacks, as `localhost` has ::1 where there is no IPv6.
    let mut own = Vec::new();
    let mut refusal = None;
    for address in found {
        match UdpSocket::bind((address.ip(), 0)) {
            Ok(_) => own.push(address),
            Err(source) => refusal = Some((address, source)),
        }
    }
    match (own.first().copied(), refusal) {
        (Some(first), _) if port == 0 => {
            let port = free_port(first.ip()).map_err(|source| cannot_listen(first, option, source))?;
            own.iter_mut().for_each(|address| address.set_port(port));
            Ok(own)
        }
        (Some(_), _) => Ok(own),
        (None, Some((address, source))) => Err(cannot_listen(address, option, source)),
        (None, None) => Err(unknown("it has no address".to_owned())),
    }
}

/// Whether a host is this machine, as far as that is known without asking a name server; `own` is the machine's own name for clients.
pub fn is_own_host(host: &str, own: &str) -> bool {
    match bare_host(host).parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case(own),
    }
}

/// Clients are told the port before anything listens, so it is taken and given back.
fn free_port(ip: IpAddr) -> std::io::Result<u16> {
    TcpListener::bind((ip, 0))?.local_addr().map(|address| address.port())
}

/// The error of an address that cannot be listened on.
pub fn cannot_listen(address: SocketAddr, option: &'static str, source: std::io::Error) -> Error {
    Error::CannotListen { address: address.to_string(), option, source }
}

/// The host that clients are told, and whether it was guessed because the broker listens everywhere.
pub fn advertised_host(given: Option<&str>, bind_host: &str, bound: &[SocketAddr]) -> (String, bool) {
    match given {
        Some(host) => (bare_host(host).to_owned(), false),
        None if bound.iter().any(|address| address.ip().is_unspecified()) => ("localhost".to_owned(), true),
        None => (bare_host(bind_host).to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_resolved_to_own_addresses() {
        let resolved = resolve("[::]", 9092, "bind-addr").or_else(|_| resolve("0.0.0.0", 9092, "bind-addr"));
        assert!(resolved.expect("wildcards are there")[0].ip().is_unspecified());
        let local = resolve("localhost", 7, "bind-addr").expect("localhost is there");
        assert!(
            !local.is_empty()
                && local.iter().all(|address| address.ip().is_loopback() && address.port() == 7)
        );
        let free = resolve("127.0.0.1", 0, "bind-addr").expect("a free port");
        assert_ne!(free[0].port(), 0);
    }

    #[test]
    fn foreign_and_unknown_hosts_are_refused() {
        assert!(matches!(
            resolve("192.0.2.1", 9092, "bind-addr"),
            Err(Error::CannotListen { option: "bind-addr", .. })
        ));
        assert!(matches!(resolve("no such host", 9092, "metrics-addr"), Err(Error::Usage(_))));
    }

    #[test]
    fn own_hosts_are_known() {
        let own = |host: &str| is_own_host(host, "broker-1.example");
        assert!(["localhost", "127.0.0.1", "127.0.0.9", "[::1]", "Broker-1.example"].into_iter().all(own));
        assert!(!["192.0.2.1", "broker-2.example", ""].into_iter().any(own));
    }

    #[test]
    fn clients_are_told_what_they_can_reach() {
        let wildcard = ["0.0.0.0:9092".parse().expect("an address")];
        let other = ["10.0.0.1:9092".parse().expect("an address")];
        assert_eq!(advertised_host(None, "0.0.0.0", &wildcard), ("localhost".to_owned(), true));
        assert_eq!(advertised_host(Some("[::1]"), "0.0.0.0", &wildcard), ("::1".to_owned(), false));
        assert_eq!(advertised_host(None, "broker.example", &other), ("broker.example".to_owned(), false));
        assert_eq!(host_and_port("::1", 1), "[::1]:1");
        assert_eq!(host_and_port("a.b", 1), "a.b:1");
    }
}
