//! A broker, alone or one of a cluster, from its options to its end.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use reactor::Stopper;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use types::NodeId;

use crate::address::{self, host_and_port};
use crate::exit::{Error, ExitReason};
use crate::health::Health;
use crate::http::{self, Endpoint};
use crate::machine::{Layout, LayoutOptions, Machine, plan_layout};
use crate::node::{self, NodePlan};
use crate::observe;
use crate::options::Options;
use crate::peers;
use crate::settings::Settings;

/// Runs a broker that is alone until a signal or a failure ends it.
///
/// # Errors
///
/// Whatever keeps it from starting, and what ended it if that was no signal.
pub fn standalone(options: &Options) -> Result<(), Error> {
    if let Some(option) = options.cluster_options.first() {
        return Err(Error::Usage(format!(
            "standalone is a single broker and takes no {option}: use `chronik-server raft-cluster` for several"
        )));
    }
    run(options, Mode::Standalone)
}

/// Runs a broker of a cluster until a signal or a failure ends it.
///
/// # Errors
///
/// As [`standalone`].
pub fn raft_cluster(options: &Options) -> Result<(), Error> {
    let stored = node::stored_voters(options)?;
    peers::check(NodeId(options.node_id), &options.peers, stored.as_deref()).map_err(Error::Usage)?;
    let (host, port) = options.raft_address()?;
    run(options, Mode::Cluster { host, port })
}

/// What the node is to be, once it is known to be possible.
enum Mode {
    Standalone,
    /// Listens for the others there.
    Cluster {
        host: String,
        port: u16,
    },
}

fn run(options: &Options, mode: Mode) -> Result<(), Error> {
    let settings = Settings::new(options.settings.clone()).map_err(Error::Usage)?;
    let layout_options = LayoutOptions {
        node_id: options.node_id,
        data_shards: options.shards,
        cpus: options.cpus.as_ref(),
        no_pin: options.no_pin,
    };
    let layout = plan_layout(&Machine::detect(), layout_options).map_err(Error::Usage)?;
    if options.busy_poll_us.is_some_and(|us| us > 0) && layout.cpus.is_none() {
        let why = layout.unpinned_because.as_deref().unwrap_or("--no-pin is given");
        return Err(Error::Usage(format!("--busy-poll-us needs shards that are pinned to cores, but {why}")));
    }
    let metrics_port = options.metrics_port()?;
    observe::start_logging(&options.log_level, options.log_format)?;
    // Caught from here on, so that a signal during recovery is not lost.
    let signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|source| Error::System { what: "catch signals", source })?;

    let listen = address::resolve(&options.bind_addr, options.kafka_port, "bind-addr")?;
    let advertised = advertised(options, &listen);
    if let Some(why) = &layout.unpinned_because {
        tracing::info!("shards are not pinned to cores: {why}");
    }
    // The metrics port follows from this one, so this one is named first when both are taken.
    http::listen(&listen).map_err(|failure| port_error(failure, "kafka-port", "bind-addr"))?;
    let raft_listen = match &mode {
        Mode::Standalone => Vec::new(),
        Mode::Cluster { host, port } => address::resolve(host, *port, "raft-addr")?,
    };

    let metrics = observe::start_metrics()?;
    let health = Arc::new(Health::new(options.node_id));
    let metrics_host = options.metrics_addr.as_ref().unwrap_or(&options.bind_addr);
    let metrics_port =
        serve_monitoring(Endpoint { metrics, health: Arc::clone(&health) }, metrics_host, metrics_port)?;

    let plan = NodePlan {
        options,
        settings: &settings,
        layout: &layout,
        listen: &listen,
        advertised: &advertised,
        identity: match mode {
            Mode::Standalone => node::standalone_identity(options)?,
            Mode::Cluster { .. } => node::cluster_identity(options)?,
        },
        raft_listen: &raft_listen,
    };
    let handle = node::start(&plan)?;
    let shards = layout.shards.shards();
    health.on_joining(shards);
    stop_on_signals(signals, handle.stopper(), Arc::clone(&health))?;
    if let Some(cluster_id) = node::await_cluster(&plan, &handle)? {
        health.on_serving(&cluster_id, shards);
        print_ready(&Ready {
            options,
            layout: &layout,
            cluster_id: &cluster_id,
            advertised: &advertised,
            metrics_port,
        });
    }
    let outcome = node::outcome(handle.wait());
    health.on_stopping();
    if outcome.is_ok() {
        tracing::info!("stopped");
    }
    outcome
}

/// The host and port that clients are told.
fn advertised(options: &Options, listen: &[SocketAddr]) -> (String, u16) {
    let (host, is_guess) =
        address::advertised_host(options.advertised_addr.as_deref(), &options.bind_addr, listen);
    if is_guess {
        tracing::info!("clients are told to connect to localhost; for other machines give --advertised-addr");
    }
    (host, options.advertised_port.unwrap_or(listen[0].port()))
}

fn stop_on_signals(signals: Signals, stopper: Stopper, health: Arc<Health>) -> Result<(), Error> {
    let on_signals = move || {
        watch_signals(signals, || {
            health.on_stopping();
            stopper.request_stop();
        })
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(on_signals)
        .map_err(|source| Error::System { what: "start a thread for signals", source })?;
    Ok(())
}

/// Asks for a stop at the first signal and ends the process at the second.
fn watch_signals(mut signals: Signals, request_stop: impl Fn()) {
    let mut is_stopping = false;
    for signal in signals.forever() {
        if is_stopping {
            tracing::error!(signal, "ended at once by a second signal; what was acknowledged is durable");
            std::process::exit(ExitReason::Interrupted.code().into());
        }
        is_stopping = true;
        tracing::info!(signal, "stopping; a second signal ends the process at once");
        request_stop();
    }
}

fn port_error((address, source): (SocketAddr, io::Error), port: &'static str, host: &'static str) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortTaken { address: address.to_string(), option: port },
        _ => address::cannot_listen(address, host, source),
    }
}

fn serve_monitoring(endpoint: Endpoint, host: &str, port: u16) -> Result<u16, Error> {
    let addresses = address::resolve(host, port, "metrics-addr")?;
    let listeners =
        http::listen(&addresses).map_err(|failure| port_error(failure, "metrics-port", "metrics-addr"))?;
    endpoint
        .serve(listeners)
        .map_err(|source| Error::System { what: "start a thread for the metrics port", source })?;
    Ok(addresses[0].port())
}

struct Ready<'a> {
    options: &'a Options,
    layout: &'a Layout,
    cluster_id: &'a str,
    advertised: &'a (String, u16),
    metrics_port: u16,
}

/// Says on standard output that the broker serves, and how to use it.
fn print_ready(ready: &Ready<'_>) {
    let program = std::env::args().next().unwrap_or_else(|| "chronik-server".to_owned());
    // Whoever started the broker may have closed its output; that is no reason to stop.
    let _ = writeln!(io::stdout(), "{}", ready_lines(ready, &program));
}

fn ready_lines(ready: &Ready<'_>, program: &str) -> String {
    let Ready { options, layout, cluster_id, advertised: (host, port), metrics_port } = ready;
    let address = host_and_port(host, *port);
    let server = match address.as_str() {
        "localhost:9092" => String::new(),
        _ => format!(" --bootstrap-server {address}"),
    };
    let shards = match layout.shards.shards() {
        1 => "1 shard".to_owned(),
        count => format!("{count} shards"),
    };
    let placement = match &layout.cpus {
        Some(cpus) => format!("pinned to cores {cpus:?}"),
        None => "not pinned".to_owned(),
    };
    let data_dir: &Path = &options.data_dir;
    format!(
        "Chronik {version} is ready: node {node} of cluster {cluster_id} serves Kafka clients at {address}\n\
         \x20 data in {data_dir}, {shards} ({placement}), metrics and health at port {metrics_port}\n\
         \n\
         Try it:\n\
         \x20 echo hello | {program} produce{server} demo\n\
         \x20 {program} consume{server} demo --from-beginning\n\
         Stop it with Ctrl-C.",
        version = env!("CARGO_PKG_VERSION"),
        node = options.node_id,
        data_dir = data_dir.display(),
    )
}
