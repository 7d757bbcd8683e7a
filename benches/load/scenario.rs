//! The measured scenarios.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::backend::{self, ACKNOWLEDGED};
use super::http2::{self, Sharing};
use super::memory::Holding;
use super::operators::Looking;
use super::rig::client::{Client, Security, Tunnel, frame};
use super::rig::peer::Peer;
use super::rig::runtime;
use super::target::{AccessLogs, Target, Tuning};
use super::{identities, measure, memory, operators, reload, storm};

/// The size of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Whole,
    Tenth,
}

impl Scale {
    pub(crate) fn of(self, count: usize) -> usize {
        match self {
            Self::Whole => count,
            Self::Tenth => count.div_ceil(10),
        }
    }
}

/// A measured scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    kind: Kind,
    security: Security,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Each tunnel sends a message when the echo of the last one has arrived.
    Echo {
        tunnels: usize,
        bytes: usize,
        messages: usize,
    },
    /// Clients send, and the endpoint only acknowledges.
    Up { bytes: usize },
    /// The endpoint sends.
    Down { bytes: usize },
    /// Connect, upgrade, echo one message, close.
    Handshake { count: usize },
    /// Idle tunnels, which then echo one message of 64 KiB each, end, and are opened again.
    Idle { tunnels: usize },
    /// Messages at fixed times, however long the echoes take.
    Latency {
        tunnels: usize,
        per_second: usize,
        seconds: usize,
    },
    /// All clients reconnect at once.
    Storm { clients: usize },
    /// Reloads while tunnels echo.
    Reload,
    /// Listings and scrapes, or views, while tunnels echo.
    Operators { looking: Looking },
    /// Handshakes of clients whose identity is established.
    Identities { count: usize },
    /// What is kept for each tunnel, or for each key.
    Memory { of: Holding },
    /// Tunnels that share connections.
    Http2 { of: Sharing },
}

/// The number of simultaneous handshakes, and of tunnels in a bulk scenario.
pub(crate) const AT_ONCE: usize = 8;

/// The number of bytes in a bulk scenario.
pub(crate) const BULK: usize = 1 << 30;

const GIB: f64 = (1u64 << 30) as f64;

pub(crate) type Results = Vec<(&'static str, f64)>;

impl Scenario {
    pub(crate) fn all() -> Vec<Self> {
        let small = |tunnels| Kind::Echo {
            tunnels,
            bytes: 64,
            messages: 200_000,
        };
        let large = |bytes| Kind::Echo {
            tunnels: AT_ONCE,
            bytes,
            messages: BULK / bytes,
        };
        let (kib64, mib) = (64 << 10, 1 << 20);
        let mut all = Vec::new();
        for security in [Security::Plain, Security::Full] {
            let kinds = [
                small(100),
                small(1000),
                large(kib64),
                large(mib),
                Kind::Up { bytes: kib64 },
                Kind::Down { bytes: kib64 },
                Kind::Up { bytes: mib },
                Kind::Down { bytes: mib },
                Kind::Handshake { count: 4000 },
                Kind::Idle { tunnels: 4000 },
                Kind::Latency {
                    tunnels: 500,
                    per_second: 5000,
                    seconds: 10,
                },
                // So few that each finds the machine at rest.
                Kind::Latency {
                    tunnels: 100,
                    per_second: 200,
                    seconds: 20,
                },
            ];
            all.extend(kinds.map(|kind| Self { kind, security }));
        }
        all.extend([Security::Resuming, Security::Hybrid].map(|security| Self {
            kind: Kind::Handshake { count: 4000 },
            security,
        }));
        all.push(Self {
            kind: Kind::Storm { clients: 20_000 },
            security: Security::Full,
        });
        all.push(Self {
            kind: Kind::Reload,
            security: Security::Plain,
        });
        all.extend([Looking::Listings, Looking::Views].map(|looking| Self {
            kind: Kind::Operators { looking },
            security: Security::Plain,
        }));
        all.push(Self {
            kind: Kind::Identities { count: 4000 },
            security: Security::Plain,
        });
        all.extend(Holding::ALL.map(|of| Self {
            kind: Kind::Memory { of },
            security: Security::Plain,
        }));
        all.extend(Sharing::ALL.map(|of| Self {
            kind: Kind::Http2 { of },
            security: Security::Http2,
        }));
        all
    }

    /// Whether this proxy can run the scenario. nginx limits connections per worker, which is too few for
    /// a storm that the kernel does not spread evenly, and does not support WebSockets over HTTP/2. The relay
    /// has no TLS, and the OpenSSL of the others may not support the hybrid key exchange. Their reloads start
    /// new processes next to the old ones.
    pub(crate) fn fits(&self, peer: Peer) -> bool {
        match (self.kind, self.security) {
            (
                Kind::Reload
                | Kind::Operators { .. }
                | Kind::Identities { .. }
                | Kind::Memory { .. },
                _,
            )
            | (_, Security::Hybrid) => {
                matches!(peer, Peer::Tidegate | Peer::Baseline)
            }
            (Kind::Storm { .. } | Kind::Http2 { .. }, _) | (_, Security::Http2) => {
                matches!(peer, Peer::Tidegate | Peer::Baseline | Peer::Haproxy)
            }
            (_, Security::Plain) => true,
            (_, Security::Full | Security::Resuming) => peer != Peer::Relay,
        }
    }

    pub(crate) fn name(&self) -> String {
        let security = match (self.security, self.kind) {
            (Security::Plain, _) => "plain",
            (Security::Full, Kind::Handshake { .. } | Kind::Storm { .. }) => "TLS full",
            (Security::Full, _) => "TLS",
            (Security::Resuming, _) => "TLS resumed",
            (Security::Hybrid, _) => "TLS full, X25519MLKEM768",
            (Security::Http2, _) => "HTTP/2",
        };
        match self.kind {
            Kind::Echo { tunnels, bytes, .. } => {
                format!("echo {}, {tunnels} tunnels, {security}", size(bytes))
            }
            Kind::Up { bytes } => format!("to the endpoint {}, {security}", size(bytes)),
            Kind::Down { bytes } => format!("to the client {}, {security}", size(bytes)),
            Kind::Handshake { .. } => format!("handshake, {security}"),
            Kind::Idle { tunnels } => format!("idle, {tunnels} tunnels, {security}"),
            Kind::Latency {
                tunnels,
                per_second,
                ..
            } => {
                format!("latency, {per_second} messages/s over {tunnels} tunnels, {security}")
            }
            Kind::Storm { clients } => {
                format!(
                    "{clients} reconnects, {} at once, {security}",
                    storm::AT_ONCE
                )
            }
            Kind::Reload => "reload, 1000 routes, 10,000 endpoints".to_owned(),
            Kind::Operators { looking } => {
                let what = match looking {
                    Looking::Listings => "listings and scrapes",
                    Looking::Views => "page, top and scrapes",
                };
                format!("{what}, 5000 tunnels and 200 busy ones")
            }
            Kind::Identities { .. } => "identities".to_owned(),
            Kind::Memory { of } => format!("memory, {}", of.name()),
            Kind::Http2 { of } => format!("{security}, {}", of.name()),
        }
    }

    fn tuning(&self) -> Tuning {
        match self.kind {
            Kind::Up { .. } | Kind::Down { .. } => Tuning::Bulk,
            Kind::Echo { bytes, .. } if bytes >= 64 << 10 => Tuning::Bulk,
            Kind::Http2 { .. } => Tuning::Http2,
            _ => Tuning::Standard,
        }
    }

    /// Runs the measurement on a new process of `peer`.
    pub(crate) fn run(&self, peer: Peer, scale: Scale, access_logs: AccessLogs) -> Results {
        let target = Target::start(peer, backend::start(), self.tuning(), access_logs);
        let to = match self.security {
            Security::Plain => target.plain,
            _ => target.tls,
        };
        let client = Client::new(to, self.security);
        let pid = target.pid();
        runtime().block_on(async {
            match self.kind {
                Kind::Echo {
                    tunnels,
                    bytes,
                    messages,
                } => echo(&client, pid, tunnels, bytes, scale.of(messages)).await,
                Kind::Up { bytes } => up(&client, pid, bytes, scale.of(BULK)).await,
                Kind::Down { bytes } => down(&client, pid, bytes, scale.of(BULK)).await,
                Kind::Handshake { count } => handshakes(&client, pid, scale.of(count)).await,
                Kind::Idle { tunnels } => idle(&client, pid, scale.of(tunnels)).await,
                Kind::Latency {
                    tunnels,
                    per_second,
                    seconds,
                } => latency(&client, pid, tunnels, per_second, scale.of(seconds)).await,
                Kind::Storm { clients } => storm::measure(&client, pid, scale.of(clients)).await,
                Kind::Reload => reload::measure(&target, &client).await,
                Kind::Operators { looking } => {
                    operators::measure(&target, &client, looking, 10 / scale.of(10)).await
                }
                Kind::Identities { count } => {
                    identities::measure(&target, &client, scale.of(count)).await
                }
                Kind::Memory { of } => {
                    memory::measure(&target, &client, of, scale.of(of.count())).await
                }
                Kind::Http2 { of } => http2::measure(&client, pid, of, scale).await,
            }
        })
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// Opens `count` tunnels, a limited number at a time.
pub(crate) async fn open(client: &Client, path: &'static str, count: usize) -> Vec<Tunnel> {
    let mut tunnels = Vec::with_capacity(count);
    while tunnels.len() < count {
        let batch: Vec<JoinHandle<Tunnel>> = (0..AT_ONCE.min(count - tunnels.len()))
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move { client.open(path).await })
            })
            .collect();
        for each in batch {
            tunnels.push(each.await.unwrap());
        }
    }
    tunnels
}

/// Echoes `each` messages on every tunnel, and returns the tunnels.
async fn echo_all(tunnels: Vec<Tunnel>, frame: &Rc<Vec<u8>>, each: usize) -> Vec<Tunnel> {
    let tasks: Vec<JoinHandle<Tunnel>> = tunnels
        .into_iter()
        .map(|mut tunnel| {
            let frame = Rc::clone(frame);
            tokio::task::spawn_local(async move {
                let mut back = Vec::new();
                for _ in 0..each {
                    tunnel.echo(&frame, &mut back).await;
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

async fn echo(client: &Client, pid: u32, tunnels: usize, bytes: usize, messages: usize) -> Results {
    let frame = Rc::new(frame(bytes, true));
    let each = messages.div_ceil(tunnels);
    let opened = open(client, "/echo", tunnels).await;
    let opened = echo_all(opened, &frame, each.div_ceil(10)).await;
    let (before, start) = (measure::cpu(pid), Instant::now());
    let _opened = echo_all(opened, &frame, each).await;
    let (cpu, time) = (measure::cpu(pid) - before, start.elapsed());
    let done = (each * tunnels) as f64;
    if bytes < 4096 {
        vec![
            ("µs CPU per echo", cpu.as_secs_f64() * 1e6 / done),
            ("echoes/s", done / time.as_secs_f64()),
        ]
    } else {
        per_gib(cpu, time, done * bytes as f64)
    }
}

pub(crate) fn per_gib(cpu: Duration, time: Duration, bytes: f64) -> Results {
    let gib = bytes / GIB;
    vec![
        ("s CPU per GiB", cpu.as_secs_f64() / gib),
        ("GiB/s", gib / time.as_secs_f64()),
    ]
}

async fn up(client: &Client, pid: u32, bytes: usize, total: usize) -> Results {
    let frame = Rc::new(frame(bytes, true));
    let each = total / AT_ONCE / ACKNOWLEDGED * ACKNOWLEDGED;
    let tunnels = open(client, "/up", AT_ONCE).await;
    let (before, start) = (measure::cpu(pid), Instant::now());
    let tasks: Vec<JoinHandle<()>> = tunnels
        .into_iter()
        .map(|tunnel| {
            let frame = Rc::clone(&frame);
            tokio::task::spawn_local(async move {
                let (mut reader, mut writer) = tokio::io::split(tunnel.stream);
                let sender = async {
                    let mut sent = 0;
                    while sent < each {
                        writer.write_all(&frame).await.unwrap();
                        sent += frame.len();
                    }
                    writer.flush().await.unwrap();
                };
                let mut acknowledged = vec![0; each / ACKNOWLEDGED];
                let ((), read) = tokio::join!(sender, reader.read_exact(&mut acknowledged));
                read.unwrap();
                assert!(acknowledged.iter().all(|byte| *byte == b'+'));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (cpu, time) = (measure::cpu(pid) - before, start.elapsed());
    per_gib(cpu, time, (each * AT_ONCE) as f64)
}

async fn down(client: &Client, pid: u32, bytes: usize, total: usize) -> Results {
    let expected = Rc::new(frame(bytes, false));
    let count = total / AT_ONCE / bytes;
    let path: &'static str = Box::leak(format!("/down/{bytes}/{count}").into());
    let (before, start) = (measure::cpu(pid), Instant::now());
    let tasks: Vec<JoinHandle<()>> = (0..AT_ONCE)
        .map(|_| {
            let (client, expected) = (client.clone(), Rc::clone(&expected));
            tokio::task::spawn_local(async move {
                let mut tunnel = client.open(path).await;
                let mut back = std::mem::take(&mut tunnel.early);
                for _ in 0..count {
                    let early = back.len();
                    back.resize(expected.len().max(early), 0);
                    tunnel.stream.read_exact(&mut back[early..]).await.unwrap();
                    assert!(
                        back[..expected.len()] == expected[..],
                        "something else came"
                    );
                    back.drain(..expected.len());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (cpu, time) = (measure::cpu(pid) - before, start.elapsed());
    per_gib(cpu, time, (count * bytes * AT_ONCE) as f64)
}

async fn handshakes(client: &Client, pid: u32, count: usize) -> Results {
    let frame = Rc::new(frame(64, true));
    // First tickets, and warm code paths.
    drop(echo_all(open(client, "/echo", 200).await, &frame, 1).await);
    let before = measure::cpu(pid);
    let workers: Vec<JoinHandle<usize>> = (0..AT_ONCE)
        .map(|_| {
            let (client, frame) = (client.clone(), Rc::clone(&frame));
            tokio::task::spawn_local(async move {
                let mut resumed = 0;
                for _ in 0..count / AT_ONCE {
                    resumed += usize::from(come_and_leave(&client, "/echo", "", &frame).await);
                }
                resumed
            })
        })
        .collect();
    let mut resumed = 0;
    for worker in workers {
        resumed += worker.await.unwrap();
    }
    let cpu = measure::cpu(pid) - before;
    let done = (count / AT_ONCE * AT_ONCE) as f64;
    let mut results = vec![("µs CPU per handshake", cpu.as_secs_f64() * 1e6 / done)];
    if resumed > 0 {
        results.push(("% resumed", 100.0 * resumed as f64 / done));
    }
    results
}

/// Opens a tunnel, echoes a message and leaves. Returns whether the TLS session was resumed.
pub(crate) async fn come_and_leave(
    client: &Client,
    path: &str,
    fields: &str,
    frame: &[u8],
) -> bool {
    let mut back = Vec::new();
    let mut tunnel = client.try_open_with(path, fields).await.unwrap();
    tunnel.echo(frame, &mut back).await;
    let is_resumed = tunnel.resumed();
    tunnel.stream.shutdown().await.unwrap();
    // Reads the end of the other side, so that the whole close is measured.
    while tunnel
        .stream
        .read(&mut back)
        .await
        .is_ok_and(|length| length > 0)
    {}
    is_resumed
}

async fn idle(client: &Client, pid: u32, count: usize) -> Results {
    let frame = Rc::new(frame(64 << 10, true));
    // What the first tunnels allocate and all share is not part of the cost of one tunnel.
    let _first = echo_all(open(client, "/echo", 200).await, &frame, 1).await;
    settle().await;
    let empty = measure::memory(pid);
    let per_tunnel = |memory: u64| memory.saturating_sub(empty) as f64 / count as f64 / 1000.0;
    let tunnels = open(client, "/echo", count).await;
    settle().await;
    let quiet = measure::memory(pid);
    let (start, before) = (Instant::now(), measure::cpu(pid));
    settle().await;
    let idle_cpu = (measure::cpu(pid) - before).as_secs_f64() / start.elapsed().as_secs_f64();
    let mut used = Vec::with_capacity(count);
    let mut tunnels = tunnels.into_iter();
    loop {
        let batch: Vec<Tunnel> = tunnels.by_ref().take(AT_ONCE).collect();
        if batch.is_empty() {
            break;
        }
        used.extend(echo_all(batch, &frame, 1).await);
    }
    settle().await;
    let after_messages = measure::memory(pid);
    drop(used);
    settle().await;
    let again = open(client, "/echo", count).await;
    settle().await;
    let second = measure::memory(pid);
    drop(again);
    vec![
        ("KB per tunnel", per_tunnel(quiet)),
        ("KB per tunnel after 64 KiB", per_tunnel(after_messages)),
        (
            "ns CPU per tunnel and second",
            idle_cpu * 1e9 / count as f64,
        ),
        ("second time / first", second as f64 / quiet as f64),
    ]
}

/// Waits, because allocators release free memory with a delay.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(2500)).await;
}

async fn latency(
    client: &Client,
    pid: u32,
    tunnels: usize,
    per_second: usize,
    seconds: usize,
) -> Results {
    let opened = open(client, "/echo", tunnels).await;
    let before = measure::cpu(pid);
    let mut times = paced_echoes(opened, per_second, seconds).await;
    let cpu = measure::cpu(pid) - before;
    times.sort_unstable();
    vec![
        ("µs p50", percentile(&times, 0.5)),
        ("µs p99", percentile(&times, 0.99)),
        ("µs p99.9", percentile(&times, 0.999)),
        (
            "µs CPU per echo",
            cpu.as_secs_f64() * 1e6 / times.len() as f64,
        ),
    ]
}

/// The percentile of sorted times, in microseconds.
pub(crate) fn percentile(times: &[Duration], share: f64) -> f64 {
    let position = (times.len() as f64 * share) as usize;
    times[position.min(times.len() - 1)].as_secs_f64() * 1e6
}

/// Sends messages at fixed times, spread evenly over the tunnels: the latency of each echo.
pub(crate) async fn paced_echoes(
    opened: Vec<Tunnel>,
    per_second: usize,
    seconds: usize,
) -> Vec<Duration> {
    let frame = Rc::new(frame(64, true));
    let tunnels = opened.len();
    let start = Instant::now() + Duration::from_millis(100);
    let each = per_second * seconds / tunnels;
    let tasks: Vec<JoinHandle<Vec<Duration>>> = opened
        .into_iter()
        .enumerate()
        .map(|(number, tunnel)| {
            let frame = Rc::clone(&frame);
            // One tunnel after the other, evenly spread.
            let first = start + Duration::from_secs(number as u64) / per_second as u32;
            let step = Duration::from_secs(tunnels as u64) / per_second as u32;
            tokio::task::spawn_local(paced(tunnel, frame, first, step, each))
        })
        .collect();
    let mut times = Vec::with_capacity(per_second * seconds);
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    times
}

/// Sends at fixed times and measures from these, so that queueing counts as latency.
async fn paced(
    tunnel: Tunnel,
    frame: Rc<Vec<u8>>,
    first: Instant,
    step: Duration,
    count: usize,
) -> Vec<Duration> {
    let (mut reader, mut writer) = tokio::io::split(tunnel.stream);
    let due = move |number: usize| first + step * number as u32;
    let sent = Rc::clone(&frame);
    let sender = async move {
        for number in 0..count {
            tokio::time::sleep_until(due(number).into()).await;
            writer.write_all(&sent).await.unwrap();
            writer.flush().await.unwrap();
        }
        writer
    };
    let receiver = async move {
        let mut times = Vec::with_capacity(count);
        let mut back = vec![0; frame.len()];
        for number in 0..count {
            reader.read_exact(&mut back).await.unwrap();
            assert!(back == *frame, "something else came back");
            times.push(due(number).elapsed());
        }
        times
    };
    tokio::join!(sender, receiver).1
}
