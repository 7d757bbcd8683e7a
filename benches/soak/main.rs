//! Does tidegate lose or leak anything in a long run of everything at once? Tunnels are busy, idle, and
//! opened and closed in every way, while configurations change, endpoints die and come back, and new
//! generations of the process take over. Every message is compared, every end needs a reason, and at
//! the end descriptors, tasks, threads and memory have to be back at their first values.
//!
//! `cargo bench --bench soak -- --minutes 30` runs for half an hour and a few minutes more. A minute of
//! everything comes first as a warm-up; the resources of the idle process after it are the first
//! values. Generations change in the first half only, because a slow leak shows in a long-lived process.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a measurement that fails has to stop, and to say so"
)]

mod clients;
mod endpoints;
mod process;
mod proxy;
#[path = "../rig/lib.rs"]
#[allow(dead_code, reason = "each benchmark uses a part of it")]
mod rig;
mod tally;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use tokio::sync::watch;
use tokio::time::Instant;

use self::clients::World;
use self::endpoints::Fleet;
use self::proxy::{GRACE, Look, Proxy};
use self::rig::client::{Client, Security};
use self::rig::{CargoArgs, cores, made_by, runtime};
use self::tally::Tally;

const ENDPOINTS: usize = 3;

/// The duration of the warm-up.
const WARM_UP: Duration = Duration::from_secs(60);

/// The time within which all connections have to end.
const SETTLE_WITHIN: Duration = Duration::from_secs(90);

/// The time after that until memory and pools have been released.
const SETTLE: Duration = Duration::from_secs(10);

/// The number of samples of an idle process, and their interval. Health checks come and go, so the
/// smallest sample shows what is held all the time.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(100);

/// The allowed growth of memory, in KiB and as a share.
const MORE_KIB: u64 = 4096;
const MORE_SHARE: f64 = 0.25;

/// A long run of everything at once, to find losses and leaks.
#[derive(Debug, Parser)]
struct Options {
    /// Minutes after one minute of warm-up
    #[arg(long, default_value_t = 30)]
    minutes: u32,
    /// Do not upgrade: one process serves all the time
    #[arg(long)]
    no_upgrades: bool,
    /// Write README.md into this folder, too
    #[arg(long)]
    out: Option<PathBuf>,
    #[command(flatten)]
    _cargo: CargoArgs,
}

fn main() -> ExitCode {
    let options = Options::parse();
    process::adopt_orphans();
    let (passed, report) = runtime().block_on(soak(&options));
    println!("{report}");
    if let Some(folder) = options.out {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("README.md"), report).unwrap();
    }
    match passed {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn soak(options: &Options) -> (bool, String) {
    let tally = Rc::new(Tally::new());
    let fleet = Rc::new(Fleet::start(ENDPOINTS));
    let proxy = Rc::new(Proxy::start(fleet.addresses()).await);
    let world = Rc::new(World {
        plain: Client::new(proxy.plain, Security::Plain),
        secure: Client::new(proxy.secure, Security::Resuming),
        fleet,
        tally: Rc::clone(&tally),
    });
    let whole = Duration::from_secs(60) * options.minutes;
    let upgrades = |span: Duration| match options.no_upgrades {
        true => Duration::ZERO,
        false => span,
    };
    phase(&world, &proxy, WARM_UP, upgrades(WARM_UP)).await;
    let first = idle(&world, &proxy, "idle after the warm-up").await;
    phase(&world, &proxy, whole, upgrades(whole / 2)).await;
    let last = idle(&world, &proxy, "idle in the end").await;
    if let Some(wrong) = proxy.stop().await {
        tally.fault(&wrong);
    }
    if proxy.has_panicked() {
        tally.fault("its log mentions a panic");
    }
    let returned = compare(&first, &last);
    let passed = returned.is_ok() && tally.faults() == 0;
    let (Ok(table) | Err(table)) = returned;
    let verdict = match passed {
        true => "Nothing was lost, nothing is left.",
        false => "**Failed.**",
    };
    let report = format!(
        "{}\n{verdict}\n\n{table}\n{}\n{}",
        preamble(),
        tally.markdown(),
        proxy.log_summary()
    );
    (passed, report)
}

fn preamble() -> String {
    format!(
        "tidegate {}, 2 workers, with clients and endpoints on {} cores.\n{}\n",
        env!("CARGO_PKG_VERSION"),
        cores(),
        made_by("soak")
    )
}

/// Everything at once for `span`, with upgrades for the first part of it.
async fn phase(world: &Rc<World>, proxy: &Rc<Proxy>, span: Duration, upgrades: Duration) {
    let (over, watched) = watch::channel(false);
    let crowd = tokio::task::spawn_local(clients::crowd(Rc::clone(world), watched));
    let fates = tokio::task::spawn_local(fates(Rc::clone(world), over.subscribe()));
    let start = Instant::now();
    let mut second = 0;
    while start.elapsed() < span {
        operate(world, proxy, second, start.elapsed() < upgrades).await;
        if second % 60 == 59 {
            show(world, proxy, "").await;
        }
        // Seconds missed by a slow operation are skipped, not made up for.
        second = (second + 1).max(start.elapsed().as_secs());
        tokio::time::sleep_until(start + Duration::from_secs(second)).await;
    }
    over.send_replace(true);
    for task in [crowd, fates] {
        if let Err(error) = task.await {
            world
                .tally
                .fault(&format!("a task of the benchmark: {error}"));
        }
    }
}

/// The operation that an operator does in this second, if any.
async fn operate(world: &World, proxy: &Proxy, second: u64, upgrading: bool) {
    let tally = &world.tally;
    for wrong in proxy.check_draining() {
        tally.fault(&wrong);
    }
    let turn = usize::try_from(second / 10).unwrap();
    let done = match second % 60 {
        _ if second % 10 == 5 && turn % 4 == 3 => proxy
            .reload_broken(turn)
            .await
            .map(|()| "invalid reloads, refused"),
        _ if second % 10 == 5 => proxy.reload(turn + 1).await.map(|()| "reloads"),
        33 if upgrading => {
            // Counted first: clients may see the first Close before the command returns.
            tally.count("upgrades, begun");
            proxy.upgrade().await.map(|()| "upgrades, over")
        }
        57 if upgrading => proxy
            .upgrade_broken(usize::try_from(second / 60).unwrap())
            .await
            .map(|()| "invalid upgrades, refused"),
        _ => return,
    };
    match done {
        Ok(what) => tally.count(what),
        Err(wrong) => tally.fault(&wrong),
    }
}

/// Kills an endpoint every twenty seconds, and brings it back six seconds later.
async fn fates(world: Rc<World>, mut over: watch::Receiver<bool>) {
    for turn in 0.. {
        for (wait, back) in [(14, false), (6, true)] {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(wait)) => {}
                _ = over.changed() => {}
            }
            if back {
                world.fleet.bring_back(turn);
            }
            if *over.borrow() {
                return;
            }
            if !back {
                world.fleet.kill(turn).await;
                world.tally.count("endpoints killed");
            }
        }
    }
}

/// Waits until all connections have ended, and samples what is left.
async fn idle(world: &World, proxy: &Proxy, name: &str) -> Look {
    // Both samples are taken with the same configuration.
    if let Err(wrong) = proxy.reload(0).await {
        world.tally.fault(&wrong);
    }
    let deadline = Instant::now() + SETTLE_WITHIN + GRACE;
    loop {
        for wrong in proxy.check_draining() {
            world.tally.fault(&wrong);
        }
        let look = proxy.look().await;
        let quiet = look.is_some_and(|it| it.tunnels == 0 && it.connections == 0);
        if quiet && proxy.none_drains() {
            break;
        }
        if Instant::now() > deadline {
            world.tally.fault(&format!("still not idle: {look:?}"));
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    tokio::time::sleep(SETTLE).await;
    let mut least: Option<Look> = None;
    for _ in 0..LOOKS {
        if let Some(look) = proxy.look().await {
            least = Some(least.map_or(look, |least| least.least(look)));
        }
        tokio::time::sleep(LOOK).await;
    }
    show(world, proxy, name).await;
    least.expect("a process serves")
}

/// Prints a line about the current state.
async fn show(world: &World, proxy: &Proxy, name: &str) {
    let Some(look) = proxy.look().await else {
        return world.tally.fault("it does not report its state");
    };
    let tally = &world.tally;
    eprintln!(
        "{:5.0} s: {name:<24} pid {}: {} tunnels, {} connections, {} tasks, {} descriptors, {} threads, \
         {:.1} MiB; {} handshakes, {} messages, {} requests, {} reloads, {} kills, {} upgrades, {} faults",
        tally.age().as_secs_f64(),
        look.pid,
        look.tunnels,
        look.connections,
        look.tasks,
        look.holds.descriptors,
        look.holds.threads,
        look.holds.resident_kib as f64 / 1024.0,
        tally.of("handshakes"),
        tally.of("messages, echoed"),
        tally.of("requests"),
        tally.of("reloads"),
        tally.of("endpoints killed"),
        tally.of("upgrades, over"),
        tally.faults(),
    );
}

/// A table of both samples; an error if anything has grown.
fn compare(first: &Look, last: &Look) -> Result<String, String> {
    let most_kib = (first.holds.resident_kib as f64 * (1.0 + MORE_SHARE)) as u64 + MORE_KIB;
    let rows = [
        ("tunnels", first.tunnels, last.tunnels, 0),
        ("connections", first.connections, last.connections, 0),
        ("tasks", first.tasks, last.tasks, first.tasks),
        (
            "descriptors",
            first.holds.descriptors as u64,
            last.holds.descriptors as u64,
            first.holds.descriptors as u64,
        ),
        (
            "threads",
            first.holds.threads,
            last.holds.threads,
            first.holds.threads,
        ),
        (
            "memory, KiB",
            first.holds.resident_kib,
            last.holds.resident_kib,
            most_kib,
        ),
    ];
    let mut text =
        "| idle | after the warm-up | in the end | at most | |\n|---|---|---|---|---|\n".to_owned();
    let mut returned = true;
    for (what, first, last, most) in rows {
        let verdict = if last <= most {
            "returned"
        } else {
            "**grown**"
        };
        returned &= last <= most;
        let _ = writeln!(text, "| {what} | {first} | {last} | {most} | {verdict} |");
    }
    match returned {
        true => Ok(text),
        false => Err(text),
    }
}
