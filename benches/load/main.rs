//! How much CPU time and memory do a message, a gigabyte, a handshake and an idle tunnel cost, compared
//! with HAProxy, nginx and a bare relay?
//!
//! `cargo bench --bench load` runs everything and prints a table in Markdown; `-- --help` lists the
//! options. Machines differ, and one machine differs from minute to minute, so only ratios within one
//! run are meaningful: the proxies take turns, round by round, and each is started afresh. Every echo
//! is compared with what was sent.
//!
//! A change is compared with the state before it in one run, too: build that into another folder, then
//! `TIDEGATE_BASELINE=FOLDER/tidegate cargo bench --bench load -- --peers tidegate,baseline`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod backend;
mod http2;
mod identities;
mod measure;
mod memory;
mod multiplexed;
mod operators;
mod relay;
mod reload;
mod report;
#[path = "../rig/lib.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod rig;
mod scenario;
mod service;
mod storm;
mod target;
mod viewers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::report::{Report, Row};
use self::rig::CargoArgs;
use self::rig::peer::Peer;
use self::scenario::{Scale, Scenario};
use self::target::AccessLogs;

/// Measures the cost of messages, bytes, handshakes and idle tunnels, next to HAProxy and nginx.
#[derive(Debug, Parser)]
struct Options {
    /// Number of rounds; the table has the minimum, the median and the maximum
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only scenarios whose names contain this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only these proxies; the table says which ones are missing
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    /// Whether the proxies write access logs
    #[arg(long, value_enum, default_value_t = AccessLogs::On)]
    access_logs: AccessLogs,
    /// A tenth of everything, to see whether the benchmark works
    #[arg(long)]
    quick: bool,
    /// Also write README.md and raw.csv into this folder
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    _cargo: CargoArgs,
    /// Run as the bare relay: the address to listen on, and the one to connect to
    #[arg(long, hide = true, num_args = 2)]
    relay: Option<Vec<std::net::SocketAddr>>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some([from, to]) = options.relay.as_deref() {
        relay::run(*from, *to);
        return ExitCode::SUCCESS;
    }
    let peers = options.peers.clone().unwrap_or_else(|| Peer::ALL.to_vec());
    let missing = Peer::missing(&peers);
    if !missing.is_empty() {
        eprintln!(
            "not installed: {missing:?}. Install the Debian packages `haproxy` and `nginx`, or leave \
             them out with --peers; the table will say so."
        );
        return ExitCode::FAILURE;
    }
    let scale = if options.quick {
        Scale::Tenth
    } else {
        Scale::Whole
    };
    let chosen: Vec<Scenario> = Scenario::all()
        .into_iter()
        .filter(|scenario| {
            let name = scenario.name();
            options.only.is_empty() || options.only.iter().any(|each| name.contains(each))
        })
        .collect();
    let mut report = Report::new(&peers, options.rounds, scale, options.access_logs);
    for round in 1..=options.rounds {
        for scenario in &chosen {
            for peer in peers.iter().filter(|peer| scenario.fits(**peer)) {
                eprint!("round {round}: {}, {}: ", scenario.name(), peer.name());
                let results = scenario.run(*peer, scale, options.access_logs);
                for (metric, value) in results {
                    eprint!("{metric} {value:.3}  ");
                    report.add(Row {
                        round,
                        scenario: scenario.name(),
                        peer: *peer,
                        metric,
                        value,
                    });
                }
                eprintln!();
            }
        }
    }
    let text = report.markdown();
    println!("{text}");
    if let Some(folder) = options.out {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("README.md"), text).unwrap();
        std::fs::write(folder.join("raw.csv"), report.csv()).unwrap();
    }
    ExitCode::SUCCESS
}
