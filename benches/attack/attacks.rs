//! The attacks. Each goes on for a given time, at a limited rate or as fast as the proxy lets it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::proxy::Target;
use super::rig::client::{Client, Security, Tunnel, frame};
use super::rig::peer::Peer;

/// The length of a request head: what HAProxy accepts, too.
const HEAD: usize = 14_000;

/// Requests per second with such heads, and the number of connections that send them.
const PER_SECOND: u32 = 100;
const SENDERS: u32 = 10;

/// The smallest chunk of a body.
pub(crate) const CHUNK: &[u8] = b"1\r\nx\r\n";

/// The number of saturating tunnels, half of them in either direction.
const TUNNELS: usize = 48;

/// The number of idle tunnels, while health is asked for.
const IDLE: usize = 4000;

/// The number of connections that upload or download chunks, or ask for health.
const STREAMS: usize = 4;

/// Bytes of one read or write.
const PIECE: usize = 64 << 10;

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// A path that is escaped thousands of times: `/%25252525…`.
    Escapes,
    /// A path of slashes.
    Slashes,
    /// Handshakes with a long `Connection` and many fields.
    Fields,
    /// Uploads in chunks of one byte.
    ChunksUp,
    /// Downloads in chunks of one byte, from an endpoint that takes part.
    ChunksDown,
    /// Tunnels that carry as many bytes as they can.
    Tunnels,
    /// Health is asked for over and over, while there are many tunnels.
    Health,
}

impl Attack {
    pub(crate) const ALL: [Self; 7] = [
        Self::Escapes,
        Self::Slashes,
        Self::Fields,
        Self::ChunksUp,
        Self::ChunksDown,
        Self::Tunnels,
        Self::Health,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Escapes => "a path of escaped escapes",
            Self::Slashes => "a path of slashes",
            Self::Fields => "handshakes with a long Connection and 90 fields",
            Self::ChunksUp => "uploads in chunks of one byte",
            Self::ChunksDown => "downloads in chunks of one byte",
            Self::Tunnels => "48 saturating tunnels",
            Self::Health => "/healthz over and over, 4000 tunnels",
        }
    }

    /// What an attacker sends.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Escapes | Self::Slashes | Self::Fields | Self::Health => "requests",
            Self::ChunksUp | Self::ChunksDown => "chunks",
            Self::Tunnels => "MiB",
        }
    }

    /// Whether this proxy has what is attacked.
    pub(crate) fn fits(self, peer: Peer) -> bool {
        self != Self::Health || peer != Peer::Haproxy
    }

    /// What is there before the attack, and not part of it.
    pub(crate) async fn prepare(self, client: &Client) -> Vec<Tunnel> {
        let mut held = Vec::new();
        if self == Self::Health {
            for _ in 0..IDLE {
                held.push(client.open("/idle").await);
            }
        }
        held
    }

    /// Attacks for this long, and counts what is sent.
    pub(crate) async fn run(self, to: Target, length: Duration, sent: &AtomicU64) {
        let attack = async {
            match self {
                Self::Escapes => {
                    requests(to, &format!("/%{}41", "25".repeat(HEAD / 2)), sent).await;
                }
                Self::Slashes => requests(to, &"/".repeat(HEAD), sent).await,
                Self::Fields => handshakes(to, sent).await,
                Self::ChunksUp => {
                    join_all((0..STREAMS).map(|_| upload(to, sent))).await;
                }
                Self::ChunksDown => {
                    join_all((0..STREAMS).map(|_| download(to, sent))).await;
                }
                Self::Tunnels => {
                    join_all((0..TUNNELS).map(|number| saturate(to, number % 2 == 0, sent))).await;
                }
                Self::Health => {
                    join_all((0..STREAMS).map(|_| health(to, sent))).await;
                }
            }
        };
        // An attack that ends early was repelled.
        let _ = timeout(length, attack).await;
    }
}

/// Calls `request` at the limited rate, from several senders.
async fn paced<F: Future<Output = io::Result<()>>>(request: impl Fn() -> F) {
    let start = Instant::now();
    let sender = async |number: u32| {
        for turn in 0.. {
            sleep_until(start + Duration::from_secs(1) * (number + turn * SENDERS) / PER_SECOND)
                .await;
            let _ = request().await;
        }
    };
    join_all((0..SENDERS).map(sender)).await;
}

/// Requests for this path, each on a new connection: the answer may close it.
async fn requests(to: Target, path: &str, sent: &AtomicU64) {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    paced(|| request(to, &head, sent)).await;
}

async fn handshakes(to: Target, sent: &AtomicU64) {
    let fields: String = (0..90).map(|number| format!("X-{number}: 1\r\n")).collect();
    let named = "a,".repeat((HEAD - fields.len()) / 2);
    let head = format!(
        "GET /handshake HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: {named}Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{fields}\r\n"
    );
    paced(|| request(to, &head, sent)).await;
}

/// Sends a head, and waits for the first bytes of the response.
async fn request(to: Target, head: &str, sent: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to.address).await?;
    stream.write_all(head.as_bytes()).await?;
    if stream.read(&mut [0; 512]).await? > 0 {
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn upload(to: Target, sent: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to.address).await?;
    let head = b"POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head).await?;
    let piece = CHUNK.repeat(PIECE / CHUNK.len());
    let mut at = 0;
    loop {
        let written = stream.write(&piece[at..]).await?;
        at = (at + written) % piece.len();
        sent.fetch_add((written / CHUNK.len()) as u64, Ordering::Relaxed);
    }
}

async fn download(to: Target, sent: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to.address).await?;
    let head = b"GET /chunks HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(head).await?;
    let mut buffer = vec![0; PIECE];
    while let length @ 1.. = stream.read(&mut buffer).await? {
        sent.fetch_add((length / CHUNK.len()) as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn saturate(to: Target, up: bool, sent: &AtomicU64) -> io::Result<()> {
    let client = Client::new(to.address, Security::Plain);
    let path = if up { "/up" } else { "/down" };
    let mut stream = client.try_open(path).await?.stream;
    let mut buffer = if up {
        frame(PIECE, true)
    } else {
        vec![0; PIECE]
    };
    let mut bytes = 0;
    loop {
        bytes += match up {
            true => stream.write_all(&buffer).await.map(|()| buffer.len())?,
            false => stream.read(&mut buffer).await?,
        };
        sent.fetch_add((bytes >> 20) as u64, Ordering::Relaxed);
        bytes %= 1 << 20;
    }
}

async fn health(to: Target, sent: &AtomicU64) -> io::Result<()> {
    let mut stream = TcpStream::connect(to.health).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 4096];
    loop {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        if stream.read(&mut buffer).await? == 0 {
            return Ok(());
        }
        sent.fetch_add(1, Ordering::Relaxed);
    }
}
