//! What do clients notice when one of three endpoints fails? Counts failed handshakes and the longest
//! successful one, next to HAProxy and nginx with health checks and retries enabled.
//!
//! `cargo bench --bench failures` runs everything (about four minutes) and prints a table in Markdown.
//! Each run has 400 handshakes per second for twelve seconds; the endpoint fails after three seconds and
//! is back after eight.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod config;
mod endpoint;
#[path = "../rig/lib.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod rig;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::endpoint::{Endpoint, Mode};
use self::rig::client::{Client, Security};
use self::rig::peer::{Peer, Running};
use self::rig::{CargoArgs, free_addresses, runtime};

/// Handshakes per second.
const RATE: u32 = 400;

/// The duration of a run, the time of the failure, and that of the recovery.
const RUN: Duration = Duration::from_secs(12);
const FAILS_AT: Duration = Duration::from_secs(3);
const BACK_AT: Duration = Duration::from_secs(8);

/// The time that a client waits for its 101.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The proxies that can have three endpoints.
const PEERS: [Peer; 3] = [Peer::Tidegate, Peer::Haproxy, Peer::Nginx];

/// Measures what clients notice of a failing endpoint, next to HAProxy and nginx.
#[derive(Debug, Parser)]
struct Options {
    /// Only these proxies
    #[arg(long, value_delimiter = ',', value_parser = balancing_peer)]
    peers: Option<Vec<Peer>>,
    /// Only failures whose names contain this
    #[arg(long)]
    only: Option<String>,
    #[command(flatten)]
    _cargo: CargoArgs,
}

/// A proxy that balances and has a configuration here. The relay has one endpoint only.
fn balancing_peer(name: &str) -> Result<Peer, String> {
    match Peer::from_str(name, false)? {
        Peer::Relay => Err("it has one endpoint only".to_owned()),
        Peer::Sozu => Err("it has no configuration here".to_owned()),
        peer => Ok(peer),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let peers = options.peers.unwrap_or_else(|| PEERS.to_vec());
    let missing = Peer::missing(&peers);
    if !missing.is_empty() {
        eprintln!("not installed: {missing:?}; leave them out with --peers");
        return ExitCode::FAILURE;
    }
    let failures = Mode::FAILURES.into_iter().filter(|mode| {
        let only = options.only.as_deref().unwrap_or_default();
        mode.name().contains(only)
    });
    let runtime = runtime();
    println!("| one of three endpoints | proxy | handshakes | failed | longest, ms |");
    println!("|---|---|---|---|---|");
    for mode in failures {
        for peer in &peers {
            let seen = runtime.block_on(measure(*peer, mode));
            println!(
                "| {} | {} | {} | {} | {:.0} |",
                mode.name(),
                peer.name(),
                seen.handshakes,
                seen.failed,
                seen.longest.as_secs_f64() * 1000.0
            );
        }
    }
    ExitCode::SUCCESS
}

#[derive(Default)]
struct Seen {
    handshakes: usize,
    failed: usize,
    longest: Duration,
}

async fn measure(peer: Peer, failure: Mode) -> Seen {
    let endpoints = [Endpoint::start(), Endpoint::start(), Endpoint::start()];
    let addresses = endpoints.each_ref().map(|endpoint| endpoint.address);
    let folder = TempDir::new().unwrap();
    let [address] = free_addresses();
    let config = config::config(peer, address, addresses, folder.path());
    let _running = Running::start(peer, folder, &config, address);
    let client = Client::new(address, Security::Plain);
    // Health checks have found every endpoint up by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let start = Instant::now();
    let failing = async {
        tokio::time::sleep_until(start + FAILS_AT).await;
        endpoints[0].set(failure);
        tokio::time::sleep_until(start + BACK_AT).await;
        endpoints[0].set(Mode::Serve);
    };
    let clients = async {
        let mut clients = JoinSet::new();
        for number in 0..RUN.as_secs() as u32 * RATE {
            let due = start + Duration::from_secs(1) * number / RATE;
            tokio::time::sleep_until(due).await;
            clients.spawn(handshake(client.clone()));
        }
        clients.join_all().await
    };
    let ((), results) = tokio::join!(failing, clients);
    let mut seen = Seen::default();
    for (succeeded, took) in results {
        seen.handshakes += 1;
        seen.failed += usize::from(!succeeded);
        seen.longest = seen.longest.max(took);
    }
    seen
}

/// Whether a 101 came, and how long that took.
async fn handshake(client: Client) -> (bool, Duration) {
    let start = Instant::now();
    let result = tokio::time::timeout(TIMEOUT, client.try_open("/")).await;
    (matches!(result, Ok(Ok(_))), start.elapsed())
}
