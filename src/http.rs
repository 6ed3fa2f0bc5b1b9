//! The endpoint for monitoring: `GET /metrics` and `GET /health`, on plain threads beside the shards.
//!
//! It serves a scraper and a health check, not the world: a handful of connections at once, one request each,
//! each bounded in size and time.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;

use crate::health::Health;

/// Connections served at once; more are closed unheard.
const CONNECTIONS_MAX: usize = 8;

/// The longest request that is read, bytes; nothing behind its first line matters.
const REQUEST_BYTES_MAX: usize = 8 * 1024;

/// How long a client may take to send its request, and again to take the answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);

/// After a failed accept, so that a lack of file descriptors does not keep a core busy.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the endpoint shows.
#[derive(Clone)]
pub struct Endpoint {
    /// Where `/metrics` comes from.
    pub metrics: PrometheusHandle,
    /// Where `/health` comes from.
    pub health: Arc<Health>,
}

impl Endpoint {
    /// Serves on each of the listeners until the process ends.
    ///
    /// # Errors
    ///
    /// When a thread is refused.
    pub fn serve(self, listeners: Vec<TcpListener>) -> io::Result<()> {
        let connections = Arc::new(AtomicUsize::new(0));
        for listener in listeners {
            let (endpoint, connections) = (self.clone(), Arc::clone(&connections));
            let run = move || endpoint.accept(&listener, &connections);
            thread::Builder::new().name("monitoring".to_owned()).spawn(run)?;
        }
        Ok(())
    }

    fn accept(&self, listener: &TcpListener, connections: &Arc<AtomicUsize>) {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "a connection to the monitoring endpoint could not be accepted");
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            let Some(slot) = Slot::take(connections) else { continue };
            let endpoint = self.clone();
            let run = move || {
                let _slot = slot;
                if let Err(error) = endpoint.answer(stream) {
                    tracing::debug!(%error, "a request to the monitoring endpoint broke off");
                }
            };
            // Refused a thread, the connection is closed, and the next scrape may fare better.
            let _ = thread::Builder::new().name("monitoring".to_owned()).spawn(run);
        }
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let deadline = Instant::now() + REQUEST_TIME_MAX;
        let response = match read_request(&mut stream, deadline)? {
            Some(head) => self.respond(&head),
            None => Response::text(431, "Request Header Fields Too Large", "the request is too large\n"),
        };
        stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
        let Response { status, reason, content_type, allow, body } = response;
        let allow = if allow { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())
    }

    fn respond(&self, head: &[u8]) -> Response {
        let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if !words.next().is_some_and(|version| version.starts_with(b"HTTP/1.")) {
            return Response::text(400, "Bad Request", "this is not HTTP/1\n");
        }
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let response = match path {
            b"/metrics" => Response {
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                ..Response::text(200, "OK", &self.metrics.render())
            },
            b"/health" => {
                let (is_healthy, body) = self.health.report();
                let (status, reason) = if is_healthy { (200, "OK") } else { (503, "Service Unavailable") };
                Response { content_type: "application/json", ..Response::text(status, reason, &body) }
            }
            _ => Response::text(404, "Not Found", "there are /metrics and /health\n"),
        };
        match method {
            b"GET" => response,
            b"HEAD" => Response { body: String::new(), ..response },
            _ => {
                Response { allow: true, ..Response::text(405, "Method Not Allowed", "only GET is allowed\n") }
            }
        }
    }
}

struct Response {
    status: u16,
    reason: &'static str,
    content_type: &'static str,
    allow: bool,
    body: String,
}

impl Response {
    fn text(status: u16, reason: &'static str, body: &str) -> Response {
        let content_type = "text/plain; charset=utf-8";
        Response { status, reason, content_type, allow: false, body: body.to_owned() }
    }
}

/// One of the connections that may be served at once.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    fn take(connections: &Arc<AtomicUsize>) -> Option<Slot> {
        let slot = Slot(Arc::clone(connections));
        // Counted first and given back on drop, so that two threads never share the last place.
        (connections.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads up to the empty line; `None` when it does not come within [`REQUEST_BYTES_MAX`].
fn read_request(stream: &mut TcpStream, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(rest))?;
        let count = stream.read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        head.extend_from_slice(&chunk[..count]);
        if head.windows(4).any(|window| window == b"\r\n\r\n")
            || head.windows(2).any(|window| window == b"\n\n")
        {
            return Ok(Some(head));
        }
        if head.len() > REQUEST_BYTES_MAX {
            return Ok(None);
        }
    }
}

/// Opens the listeners of the endpoint.
///
/// # Errors
///
/// The address that failed and the system's reason.
pub fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    addresses.iter().map(|&address| TcpListener::bind(address).map_err(|error| (address, error))).collect()
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    fn start() -> (SocketAddr, Arc<Health>) {
        let health = Arc::new(Health::new(7));
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let listeners = listen(&["127.0.0.1:0".parse().expect("an address")]).expect("a free port");
        let address = listeners[0].local_addr().expect("bound");
        Endpoint { metrics, health: Arc::clone(&health) }.serve(listeners).expect("threads");
        (address, health)
    }

    fn exchange(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        // The endpoint may have answered and closed before it took everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn health_and_metrics_are_answered() {
        let (address, health) = start();
        let get =
            |path: &str| exchange(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!(get("/health").starts_with("HTTP/1.1 503 "));
        health.on_serving("cluster", 3);
        let healthy = get("/health");
        assert!(healthy.starts_with("HTTP/1.1 200 OK\r\n"), "{healthy}");
        assert!(healthy.contains("Content-Type: application/json\r\n"), "{healthy}");
        assert!(healthy.ends_with("\"status\":\"serving\"}\n"), "{healthy}");
        assert!(get("/metrics").starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(get("/metrics?x=1").contains("text/plain; version=0.0.4"));
        assert!(get("/").starts_with("HTTP/1.1 404 "));
        health.on_stopping();
        assert!(get("/health").starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn odd_requests_get_an_answer_or_a_closed_connection() {
        let (address, _) = start();
        let starts = |request: &[u8], expected: &str| {
            let answer = exchange(address, request);
            assert!(answer.starts_with(expected), "{:?}: {answer}", String::from_utf8_lossy(request));
        };
        starts(b"HEAD /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 200 ");
        starts(b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ");
        starts(b"GET /metrics\n\n", "HTTP/1.1 400 ");
        starts(b"\0\0\0\x10\0\x12\r\n\r\n", "HTTP/1.1 400 ");
        exchange(address, &vec![b'a'; 1024 * 1024]);
        starts(b"GET /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 ");
    }

    #[test]
    fn idle_connections_leave_no_room_for_more_but_break_nothing() {
        let (address, _) = start();
        let idle: Vec<_> =
            (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).expect("listening")).collect();
        // Served one after the other in the order of connecting, so this one finds every place taken.
        assert_eq!(exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n"), "");
        for stream in idle {
            stream.shutdown(std::net::Shutdown::Both).expect("connected");
        }
        while exchange(address, b"GET /metrics HTTP/1.1\r\n\r\n").is_empty() {}
    }
}
