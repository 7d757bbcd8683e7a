//! What do other clients notice of one that wants to do harm? Measures the echo of a small message while
//! nothing else happens and beside an attack, in turn, through a proxy with one worker.
//!
//! `cargo bench --bench attack` runs everything (about three minutes) and prints a table in Markdown.
//! Attackers are on loopback, and every attack ends by itself. On a machine with two cores the attacker's
//! own work is in the figures: compare a row with the same row of another proxy.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod attacks;
mod endpoint;
mod proxy;
#[path = "../rig/lib.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod rig;

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;

use self::attacks::Attack;
use self::proxy::Proxy;
use self::rig::client::{Client, Security, Tunnel, frame};
use self::rig::peer::Peer;
use self::rig::{CargoArgs, made_by, runtime};

/// The time between two messages of the client that is measured.
const PAUSE: Duration = Duration::from_millis(2);

/// The time that an attack runs before its effect is measured.
const WARM: Duration = Duration::from_millis(500);

/// An attack must not multiply the median by more than this.
const MAX_RATIO: f64 = 2.0;

/// Beside saturating tunnels, the median must not be more than this many times HAProxy's.
const MAX_OF_HAPROXY: f64 = 1.5;

/// Measures the echo of one client beside attacks, next to HAProxy.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds of every measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Measurements without and with the attack, in turn
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Only attacks whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Only these proxies; HAProxy is left out if it is not installed
    #[arg(long, value_delimiter = ',', value_parser = attacked_peer)]
    peers: Option<Vec<Peer>>,
    #[command(flatten)]
    _cargo: CargoArgs,
}

/// A proxy with a configuration here.
fn attacked_peer(name: &str) -> Result<Peer, String> {
    match <Peer as clap::ValueEnum>::from_str(name, false)? {
        peer @ (Peer::Tidegate | Peer::Baseline | Peer::Haproxy) => Ok(peer),
        _ => Err("only tidegate, baseline and haproxy are attacked".to_owned()),
    }
}

/// The measured effect of an attack.
struct Effect {
    attack: Attack,
    peer: Peer,
    quiet: f64,
    attacked: f64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let mut peers = options
        .peers
        .clone()
        .unwrap_or_else(|| vec![Peer::Tidegate, Peer::Haproxy]);
    let missing = Peer::missing(&peers);
    if missing.contains(&Peer::Haproxy) && options.peers.is_none() {
        eprintln!("HAProxy is not installed, and left out");
        peers.retain(|peer| *peer != Peer::Haproxy);
    } else if !missing.is_empty() {
        eprintln!("not installed: {missing:?}; leave them out with --peers");
        return ExitCode::FAILURE;
    }
    println!("{}\n", made_by("attack"));
    println!("| attack | proxy | sent per second | quiet, ms | attacked, ms | 99 %, ms | ratio |");
    println!("|---|---|---|---|---|---|---|");
    let only = options.only.as_deref().unwrap_or_default();
    let mut effects = Vec::new();
    for attack in Attack::ALL
        .into_iter()
        .filter(|it| it.name().contains(only))
    {
        for peer in peers.iter().filter(|peer| attack.fits(**peer)) {
            effects.push(measure(attack, *peer, &options));
        }
    }
    if effects.is_empty() {
        eprintln!("nothing was measured: no attack has such a name");
        return ExitCode::FAILURE;
    }
    let verdict = Verdict::on(&effects);
    println!("\n{verdict}");
    match verdict.exceeding.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Measures one attack on a new process of `peer`, and prints its row.
fn measure(attack: Attack, peer: Peer, options: &Options) -> Effect {
    let proxy = Proxy::start(peer);
    let length = Duration::from_secs(options.seconds);
    let (mut quiet, mut attacked) = (Vec::new(), Vec::new());
    let (mut units, mut time) = (0, Duration::ZERO);
    runtime().block_on(async {
        let client = Client::new(proxy.address, Security::Plain);
        let mut tunnel = client.open("/echo").await;
        let held = attack.prepare(&client).await;
        for _ in 0..options.rounds {
            quiet.extend(echoes(&mut tunnel, length).await);
            let sent = Arc::<AtomicU64>::default();
            let (counter, target) = (Arc::clone(&sent), proxy.target());
            let attacker = thread::spawn(move || {
                runtime().block_on(attack.run(target, WARM + length, &counter));
            });
            tokio::time::sleep(WARM).await;
            let (before, start) = (sent.load(Ordering::Relaxed), Instant::now());
            attacked.extend(echoes(&mut tunnel, length).await);
            units += sent.load(Ordering::Relaxed) - before;
            time += start.elapsed();
            attacker.join().unwrap();
        }
        drop(held);
    });
    let effect = Effect {
        attack,
        peer,
        quiet: percentile(&mut quiet, 0.5),
        attacked: percentile(&mut attacked, 0.5),
    };
    println!(
        "| {} | {} | {} {} | {:.3} | {:.3} | {:.3} | {:.1} |",
        attack.name(),
        peer.name(),
        (units as f64 / time.as_secs_f64()).round(),
        attack.unit(),
        effect.quiet,
        effect.attacked,
        percentile(&mut attacked, 0.99),
        effect.attacked / effect.quiet,
    );
    effect
}

/// The echo times of small messages for a while, in milliseconds.
async fn echoes(tunnel: &mut Tunnel, length: Duration) -> Vec<f64> {
    let frame = frame(64, true);
    let mut back = Vec::new();
    let mut times = Vec::new();
    let start = Instant::now();
    while start.elapsed() < length {
        let sent = Instant::now();
        tunnel.echo(&frame, &mut back).await;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    times
}

fn percentile(times: &mut [f64], part: f64) -> f64 {
    times.sort_unstable_by(f64::total_cmp);
    let at = (times.len() as f64 * part) as usize;
    times[at.min(times.len() - 1)]
}

/// What the measurements say of the attacks that have a limit.
struct Verdict {
    /// Within their limit.
    within: Vec<String>,
    /// Beyond their limit.
    exceeding: Vec<String>,
    /// Without another proxy's measurement to compare with.
    uncompared: Vec<String>,
}

impl Verdict {
    fn on(effects: &[Effect]) -> Self {
        let of_haproxy = |attack| {
            let mut same = effects.iter().filter(|it| it.attack == attack);
            same.find(|it| it.peer == Peer::Haproxy)
                .map(|it| it.attacked)
        };
        let mut verdict = Self {
            within: Vec::new(),
            exceeding: Vec::new(),
            uncompared: Vec::new(),
        };
        for effect in effects.iter().filter(|it| it.peer != Peer::Haproxy) {
            let limit = match effect.attack {
                // What saturates every core delays everything: only another proxy is a measure for that.
                Attack::Tunnels => of_haproxy(Attack::Tunnels).map(|other| other * MAX_OF_HAPROXY),
                _ => Some(effect.quiet * MAX_RATIO),
            };
            let list = match limit {
                None => &mut verdict.uncompared,
                Some(limit) if effect.attacked > limit => &mut verdict.exceeding,
                Some(_) => &mut verdict.within,
            };
            list.push(format!("{} ({})", effect.attack.name(), effect.peer.name()));
        }
        verdict
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The limit is {MAX_RATIO} times the quiet median; beside saturating tunnels, {MAX_OF_HAPROXY} times \
             HAProxy's median."
        )?;
        let lists = [
            ("Within the limit", &self.within),
            ("Beyond the limit", &self.exceeding),
            (
                "Not compared, because HAProxy was not measured",
                &self.uncompared,
            ),
        ];
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            writeln!(f, "{what}: {}.", names.join("; "))?;
        }
        Ok(())
    }
}
