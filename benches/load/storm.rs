//! How fast is a reconnect storm over? All clients reconnect at once, each with a full TLS handshake,
//! and open a tunnel. Each client tries once, with a generous timeout.
//!
//! File descriptors limit how many are under way at the same time: a tunnel needs two in the proxy and
//! two in this process, which is both client and endpoint.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::measure;
use super::rig::client::{Client, frame};
use super::scenario::Results;

/// The number of simultaneous clients. The `maxconn` of HAProxy is a little higher.
pub(crate) const AT_ONCE: usize = 8000;

/// The time that a client waits for its tunnel.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The interval of memory samples.
const LOOK: Duration = Duration::from_millis(20);

/// Runs the measurement with this many clients.
pub(crate) async fn measure(client: &Client, pid: u32, clients: usize) -> Results {
    let before = measure::memory(pid);
    let most = Rc::new(Cell::new(before));
    let looks = tokio::task::spawn_local(look(pid, Rc::clone(&most)));
    let turns = Rc::new(Semaphore::new(AT_ONCE));
    let (busy, start) = (measure::cpu(pid), Instant::now());
    let tasks: Vec<JoinHandle<Option<Duration>>> = (0..clients)
        .map(|_| {
            let (client, turns) = (client.clone(), Rc::clone(&turns));
            tokio::task::spawn_local(async move {
                let _turn = turns.acquire().await.unwrap();
                let came = tokio::time::timeout(TIMEOUT, come_back(&client)).await;
                came.is_ok_and(|came| came.is_ok()).then(|| start.elapsed())
            })
        })
        .collect();
    let mut served = Vec::with_capacity(clients);
    for task in tasks {
        served.extend(task.await.unwrap());
    }
    let busy = measure::cpu(pid) - busy;
    looks.abort();
    let last = served.iter().max().copied().unwrap_or_default();
    vec![
        ("% served", served.len() as f64 * 100.0 / clients as f64),
        ("s to the last", last.as_secs_f64()),
        (
            "µs CPU per client",
            busy.as_secs_f64() * 1e6 / clients as f64,
        ),
        (
            "MiB at most",
            (most.get() - before) as f64 / f64::from(1 << 20),
        ),
    ]
}

/// Opens a tunnel and echoes a message.
async fn come_back(client: &Client) -> std::io::Result<()> {
    let mut tunnel = client.try_open("/echo").await?;
    tunnel.try_echo(&frame(64, true), &mut Vec::new()).await
}

async fn look(pid: u32, most: Rc<Cell<u64>>) {
    loop {
        most.set(most.get().max(measure::memory(pid)));
        tokio::time::sleep(LOOK).await;
    }
}
