//! What does a reload cost, and does it delay traffic? A configuration with 1000 routes and 10,000
//! endpoints is changed and loaded twenty times, while tunnels echo and others open.
//!
//! Only one endpoint serves. The others, in ten upstreams of a thousand each, are never picked, because
//! their routes match other hosts; the cost of a reload does not depend on that.

use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::measure;
use super::rig::client::{Client, Tunnel, frame};
use super::scenario::{Results, open, settle};
use super::target::Target;

const RELOADS: usize = 20;
const ROUTES: usize = 1000;
const UPSTREAMS: usize = 10;
const ENDPOINTS_EACH: usize = 1000;

/// The number of tunnels that echo, and the interval of each.
const TUNNELS: usize = 200;
const BEAT: Duration = Duration::from_millis(100);

/// The pause between two reloads.
const PAUSE: Duration = Duration::from_millis(200);

/// The latencies that the tunnels observe.
#[derive(Default)]
struct Seen {
    longest: Cell<Duration>,
    echoes: Cell<u64>,
    over: Cell<bool>,
}

impl Seen {
    /// The longest latency since the last call.
    fn take_longest(&self) -> Duration {
        self.longest.take()
    }
}

/// Runs the measurement.
pub(crate) async fn measure(target: &Target, client: &Client) -> Results {
    let pid = target.pid();
    target.reload_with(&large(0)).await;
    let seen = Rc::new(Seen::default());
    let opened = open(client, "/echo", TUNNELS).await;
    let mut tasks: Vec<JoinHandle<()>> = opened
        .into_iter()
        .enumerate()
        .map(|(number, tunnel)| {
            let offset = BEAT / TUNNELS as u32 * number as u32;
            tokio::task::spawn_local(beat(tunnel, Rc::clone(&seen), offset))
        })
        .collect();
    let (client, over) = (client.clone(), Rc::clone(&seen));
    tasks.push(tokio::task::spawn_local(async move {
        let message = frame(64, true);
        while !over.over.get() {
            let mut tunnel = client.open("/echo").await;
            tunnel.echo(&message, &mut Vec::new()).await;
            tokio::time::sleep(BEAT / 10).await;
        }
    }));
    settle().await;
    let first = measure::memory(pid);

    seen.take_longest();
    let (start, before) = (Instant::now(), measure::cpu(pid));
    for turn in 1..=RELOADS {
        target.reload_with(&large(turn)).await;
        tokio::time::sleep(PAUSE).await;
    }
    let (took, busy) = (start.elapsed(), measure::cpu(pid) - before);
    let stalled = seen.take_longest();

    // The same time without reloads, to see the noise of this machine.
    let before = measure::cpu(pid);
    tokio::time::sleep(took).await;
    let quiet = measure::cpu(pid) - before;
    let stalled_quiet = seen.take_longest();

    settle().await;
    let last = measure::memory(pid);
    seen.over.set(true);
    for task in tasks {
        task.await.unwrap();
    }
    assert!(seen.echoes.get() > 0);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    vec![
        (
            "ms CPU per reload",
            ms(busy.saturating_sub(quiet)) / RELOADS as f64,
        ),
        ("ms longest echo", ms(stalled)),
        ("ms longest echo without", ms(stalled_quiet)),
        ("memory after 20 / after 1", last as f64 / first as f64),
    ]
}

/// Echoes at fixed times until the measurement is over. A lost or wrong message ends it.
async fn beat(mut tunnel: Tunnel, seen: Rc<Seen>, offset: Duration) {
    let message = frame(64, true);
    let mut back = Vec::new();
    let mut due = tokio::time::Instant::now() + offset;
    while !seen.over.get() {
        tokio::time::sleep_until(due).await;
        tunnel.echo(&message, &mut back).await;
        // Measured from the planned time, so that queueing counts as latency.
        seen.longest.set(seen.longest.get().max(due.elapsed()));
        seen.echoes.set(seen.echoes.get() + 1);
        due += BEAT;
    }
}

/// Routes and endpoints for other hosts. Each turn replaces a tenth of the endpoints and shifts the
/// order.
fn large(turn: usize) -> String {
    let mut text = String::new();
    for route in 0..ROUTES {
        let upstream = (route + turn) % UPSTREAMS;
        let _ = writeln!(
            text,
            "[[route]]\nhosts = [\"tenant-{route}.example.com\"]\nupstream = \"group-{upstream}\""
        );
    }
    for upstream in 0..UPSTREAMS {
        let _ = writeln!(text, "[upstream.group-{upstream}]\nendpoints = [");
        for endpoint in 0..ENDPOINTS_EACH {
            let number = turn * ENDPOINTS_EACH / 10 + endpoint;
            let _ = writeln!(
                text,
                "\"10.{upstream}.{}.{}:9000\",",
                number / 250,
                number % 250
            );
        }
        text.push_str("]\n");
    }
    text
}
