//! What do tunnels cost that share connections (HTTP/2, RFC 8441)?

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::measure;
use super::multiplexed::{Multiplexer, StreamTunnel};
use super::rig::client::{Client, frame};
use super::scenario::{AT_ONCE, BULK, Results, Scale, per_gib, settle};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Each tunnel sends a small message when the echo of the last one has arrived.
    SmallEcho,
    /// The same with large ones.
    LargeEcho,
    /// Tunnels are opened, echo one message and end, on connections that are there already.
    Handshake,
    /// Connections, then idle tunnels on them, which then echo one large message each.
    Idle,
}

const SMALL: usize = 64;

const LARGE: usize = 64 << 10;

const SMALL_MESSAGES: usize = 200_000;

const HANDSHAKES: usize = 4000;

/// Connections of the scenarios with messages and handshakes, unless there are fewer tunnels.
const CONNECTIONS: usize = 10;

const SMALL_ECHO_TUNNELS: usize = 100;

const IDLE_CONNECTIONS: usize = 200;

const TUNNELS_EACH: usize = 20;

/// A run that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);

impl Sharing {
    pub(crate) const ALL: [Self; 4] = [
        Self::SmallEcho,
        Self::LargeEcho,
        Self::Handshake,
        Self::Idle,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Self::SmallEcho => {
                format!("echo 64 B, {SMALL_ECHO_TUNNELS} tunnels on {CONNECTIONS} connections")
            }
            Self::LargeEcho => format!(
                "echo 64 KiB, {AT_ONCE} tunnels on {} connections",
                AT_ONCE / 2
            ),
            Self::Handshake => "handshake on an open connection".to_owned(),
            Self::Idle => {
                format!("idle, {TUNNELS_EACH} tunnels on each of {IDLE_CONNECTIONS} connections")
            }
        }
    }
}

/// Runs the measurement.
pub(crate) async fn measure(client: &Client, pid: u32, of: Sharing, scale: Scale) -> Results {
    let run = async {
        match of {
            Sharing::SmallEcho => {
                let shape = [CONNECTIONS, SMALL_ECHO_TUNNELS / CONNECTIONS];
                echo(client, pid, shape, SMALL, scale.of(SMALL_MESSAGES)).await
            }
            Sharing::LargeEcho => {
                let shape = [AT_ONCE / 2, 2];
                echo(client, pid, shape, LARGE, scale.of(BULK) / LARGE).await
            }
            Sharing::Handshake => handshakes(client, pid, scale.of(HANDSHAKES)).await,
            Sharing::Idle => idle(client, pid, scale.of(IDLE_CONNECTIONS)).await,
        }
    };
    tokio::time::timeout(PATIENCE, run).await.unwrap()
}

async fn connect(client: &Client, count: usize) -> Vec<Multiplexer> {
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        connections.push(Multiplexer::connect(client).await);
    }
    connections
}

/// Opens `each` tunnels on every connection.
async fn open(connections: &[Multiplexer], each: usize) -> Vec<StreamTunnel> {
    let mut tunnels = Vec::with_capacity(connections.len() * each);
    for connection in connections {
        for _ in 0..each {
            tunnels.push(connection.open("/echo").await);
        }
    }
    tunnels
}

/// Echoes `each` messages on every tunnel, and returns the tunnels.
async fn echo_all(tunnels: Vec<StreamTunnel>, frame: &Bytes, each: usize) -> Vec<StreamTunnel> {
    let tasks: Vec<JoinHandle<StreamTunnel>> = tunnels
        .into_iter()
        .map(|mut tunnel| {
            let frame = frame.clone();
            tokio::task::spawn_local(async move {
                for _ in 0..each {
                    tunnel.echo(&frame).await;
                }
                tunnel
            })
        })
        .collect();
    let mut tunnels = Vec::with_capacity(tasks.len());
    for task in tasks {
        tunnels.push(task.await.unwrap());
    }
    tunnels
}

async fn echo(
    client: &Client,
    pid: u32,
    [connections, tunnels_each]: [usize; 2],
    bytes: usize,
    messages: usize,
) -> Results {
    let frame = Bytes::from(frame(bytes, true));
    let connections = connect(client, connections).await;
    let opened = open(&connections, tunnels_each).await;
    let tunnels = opened.len();
    let each = messages.div_ceil(tunnels);
    let opened = echo_all(opened, &frame, each.div_ceil(10)).await;
    let (before, start) = (measure::cpu(pid), Instant::now());
    let _opened = echo_all(opened, &frame, each).await;
    let (cpu, time) = (measure::cpu(pid) - before, start.elapsed());
    let done = (each * tunnels) as f64;
    if bytes == SMALL {
        vec![
            ("µs CPU per echo", cpu.as_secs_f64() * 1e6 / done),
            ("echoes/s", done / time.as_secs_f64()),
        ]
    } else {
        per_gib(cpu, time, done * bytes as f64)
    }
}

async fn handshakes(client: &Client, pid: u32, count: usize) -> Results {
    let frame = Bytes::from(frame(SMALL, true));
    let connections = connect(client, CONNECTIONS).await;
    // Warm code paths, and header tables that know the fields.
    come_and_leave(&connections, &frame, 200).await;
    let before = measure::cpu(pid);
    come_and_leave(&connections, &frame, count).await;
    let cpu = measure::cpu(pid) - before;
    vec![(
        "µs CPU per handshake",
        cpu.as_secs_f64() * 1e6 / count as f64,
    )]
}

/// `count` tunnels that echo one message each, a limited number at a time.
async fn come_and_leave(connections: &[Multiplexer], frame: &Bytes, count: usize) {
    let tasks: Vec<JoinHandle<()>> = (0..AT_ONCE)
        .map(|task| {
            let (connections, frame) = (connections.to_vec(), frame.clone());
            tokio::task::spawn_local(async move {
                for number in (task..count).step_by(AT_ONCE) {
                    let mut tunnel = connections[number % connections.len()].open("/echo").await;
                    tunnel.echo(&frame).await;
                    tunnel.leave().await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn idle(client: &Client, pid: u32, count: usize) -> Results {
    let (small, large) = (
        Bytes::from(frame(SMALL, true)),
        Bytes::from(frame(LARGE, true)),
    );
    // What the first ones allocate and all share is not part of the cost of one. Small messages: HAProxy would keep
    // the buffers of large ones, and what comes later would seem to cost nothing.
    let first = connect(client, CONNECTIONS).await;
    let _tunnels = echo_all(open(&first, TUNNELS_EACH).await, &small, 1).await;
    settle().await;
    let empty = measure::memory(pid);
    let connections = connect(client, count).await;
    // A connection has its buffers when it has been used.
    come_and_leave(&connections, &small, count).await;
    settle().await;
    let connected = measure::memory(pid);
    let tunnels = open(&connections, TUNNELS_EACH).await;
    settle().await;
    let opened = measure::memory(pid);
    let (start, before) = (Instant::now(), measure::cpu(pid));
    settle().await;
    let busy = (measure::cpu(pid) - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let mut used = Vec::with_capacity(tunnels.len());
    let mut rest = tunnels.into_iter();
    while used.len() < count * TUNNELS_EACH {
        let batch = rest.by_ref().take(AT_ONCE).collect();
        used.extend(echo_all(batch, &large, 1).await);
    }
    settle().await;
    let after_messages = measure::memory(pid);
    let tunnels = (count * TUNNELS_EACH) as f64;
    let per_tunnel = |memory: u64| memory.saturating_sub(connected) as f64 / tunnels / 1000.0;
    vec![
        (
            "KB per connection",
            connected.saturating_sub(empty) as f64 / count as f64 / 1000.0,
        ),
        ("KB per tunnel beyond it", per_tunnel(opened)),
        ("KB per tunnel after 64 KiB", per_tunnel(after_messages)),
        ("ns CPU per tunnel and second", busy * 1e9 / tunnels),
    ]
}
