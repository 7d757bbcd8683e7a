//! tidegate beside HAProxy, nginx and a bare relay: what a message, a gigabyte, a handshake and an
//! idle tunnel cost, in CPU time and memory of the proxy.
//!
//! `cargo bench --bench load` runs everything and prints a table in Markdown; `-- --help` tells the
//! rest. Machines differ, and so does one machine from one minute to the next: only the ratios within
//! one run mean something. So the peers take turns, round by round, each freshly started, and
//! everything that comes back is compared with what was sent.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod backend;
mod measure;
mod operators;
mod relay;
mod reload;
mod report;
#[path = "../rig/lib.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod rig;
mod scenario;
mod storm;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::report::{Report, Row};
use self::rig::CargoArgs;
use self::rig::peer::Peer;
use self::scenario::{Scale, Scenario};

/// What a message, a gigabyte, a handshake and an idle tunnel cost, beside HAProxy and nginx.
#[derive(Debug, Parser)]
struct Options {
    /// Rounds; the table has the least, the median and the most of them
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only scenarios whose names contain this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only these peers, and say in the table that others are missing
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<Peer>>,
    /// A tenth of everything, to see whether it runs
    #[arg(long)]
    quick: bool,
    /// Write README.md and raw.csv into this folder, too
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    _cargo: CargoArgs,
    /// Be the bare relay: listen here, connect there
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
    let missing: Vec<&Peer> = peers
        .iter()
        .filter(|peer| peer.version().is_none())
        .collect();
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
    let mut report = Report::new(&peers, options.rounds, scale);
    for round in 1..=options.rounds {
        for scenario in &chosen {
            for peer in peers.iter().filter(|peer| scenario.fits(**peer)) {
                eprint!("round {round}: {}, {}: ", scenario.name(), peer.name());
                let results = scenario.run(*peer, scale);
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
