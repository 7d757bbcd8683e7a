//! The legs of a probe, except TLS and the handshake, which have more to them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tidegate::net::stream::Stream;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::report::{Told, harmless, some};
use super::url::Url;

/// How long the other side may take to end the connection after its Close, before it is dropped.
const FAREWELL_MOST: Duration = Duration::from_millis(500);

/// A part of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    Name,
    Connect,
    Tls,
    Handshake,
    Ping,
    Close,
}

impl Leg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Handshake => "handshake",
            Self::Ping => "ping",
            Self::Close => "close",
        }
    }

    /// What did not come in time, and what may help.
    fn late(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => (
                "no address",
                "the name server is slow or out of reach; `--resolve ADDRESS` does without it",
            ),
            Self::Connect => (
                "no connection",
                "a firewall may drop what is sent there, or the address is nobody's",
            ),
            Self::Tls => (
                "no end of the TLS handshake",
                "whatever listens there may not speak TLS: try ws:// instead of wss://",
            ),
            Self::Handshake => (
                "no answer",
                "whatever listens there may speak TLS (try wss://), or waits for a PROXY header, or \
                 for its endpoint",
            ),
            Self::Ping => (
                "no Pong",
                "the tunnel is open, but the endpoint reads nothing or does not answer Pings \
                 (RFC 6455 section 5.5.2)",
            ),
            Self::Close => (
                "no Close",
                "the endpoint answers Pings, but no Close (RFC 6455 section 5.5.1)",
            ),
        }
    }
}

/// What a leg comes to.
pub(super) type Outcome<T> = Result<(T, Told), Failure>;

/// Why a leg did not lead on.
#[derive(Debug, Default)]
pub(super) struct Failure {
    pub(super) why: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// What was seen nevertheless.
    pub(super) told: Told,
}

impl Failure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: None,
            told: Told::default().line("failed"),
        }
    }

    /// It took too long.
    pub(super) fn late(leg: Leg, limit: Duration) -> Self {
        let (what, hint) = leg.late();
        let limit = humantime::format_duration(limit);
        Self::new(format!("{what} within {limit}")).hint(hint)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn told(mut self, told: Told) -> Self {
        self.told = told;
        self
    }
}

/// Looks the host up, as programs on this machine do.
pub(super) async fn name(url: &Url) -> Outcome<Vec<SocketAddr>> {
    let found = lookup_host((&*url.host, url.port)).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(error) => return Err(unknown(url, &error.to_string())),
    };
    if addresses.is_empty() {
        return Err(unknown(url, "it has no address"));
    }
    let shown: Vec<String> = addresses.iter().map(|each| each.ip().to_string()).collect();
    let told = Told::default()
        .line(format!("{} is {}", url.host, some(&shown)))
        .fact("addresses", shown);
    Ok((addresses, told))
}

fn unknown(url: &Url, why: &str) -> Failure {
    Failure::new(format!("`{}` was not found: {why}", url.host))
        .hint("is it spelled right? `--resolve ADDRESS` does without a name server")
}

/// Connects to the first of `addresses` that takes it. Each but the last has its share of the time.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> Outcome<TcpStream> {
    let begun = Instant::now();
    let mut failures = Vec::new();
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let mut nobody = true;
    for &address in addresses {
        let share = match left {
            // The leg itself ends in time.
            0 | 1 => Duration::MAX,
            more => limit.saturating_sub(begun.elapsed()) / more,
        };
        left = left.saturating_sub(1);
        let error = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Frames are small, and each is waited for.
                let _ = socket.set_nodelay(true);
                let mut told = Told::default().line(address.to_string());
                told.lines.extend(failures);
                return Ok((socket, told.fact("address", address.to_string())));
            }
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        nobody &= error.kind() == io::ErrorKind::ConnectionRefused;
        failures.push(format!("{address}: {error}"));
    }
    let failure = Failure::new(some(&failures));
    Err(if nobody {
        failure.hint("nobody listens there: is the port right, and is the program running?")
    } else {
        failure.hint("is there a way to this address from here, and no firewall in it?")
    })
}

/// A tunnel through the URL.
pub(super) type Tunnel = WebSocketStream<Stream>;

/// Sends a Ping and waits for its Pong.
pub(super) async fn ping(tunnel: &mut Tunnel) -> Outcome<()> {
    let payload = random::<8>().to_vec();
    let ping = Message::Ping(payload.clone().into());
    if let Err(error) = tunnel.send(ping).await {
        return Err(broken("Pong", &error));
    }
    let mut passed_over = 0_u32;
    loop {
        match tunnel.next().await {
            Some(Ok(Message::Pong(pong))) if *pong == *payload => break,
            Some(Ok(Message::Close(frame))) => {
                let how = frame.as_ref().map_or_else(|| "no code".into(), spelled);
                return Err(
                    Failure::new(format!("closed with {how} instead of a Pong")).hint(
                        "it may want something of its clients that the probe has not sent: see \
                     `--header`, `--subprotocol` and `--origin`",
                    ),
                );
            }
            Some(Ok(Message::Text(_) | Message::Binary(_))) => passed_over += 1,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken("Pong", &error)),
            None => return Err(broken("Pong", &Error::ConnectionClosed)),
        }
    }
    let line = match passed_over {
        0 => "Pong".to_owned(),
        1 => "Pong, after 1 message".to_owned(),
        many => format!("Pong, after {many} messages"),
    };
    let told = Told::default().line(line).fact("messages", passed_over);
    Ok(((), told))
}

/// Sends a Close and waits for the other one.
pub(super) async fn close(tunnel: &mut Tunnel) -> Outcome<()> {
    let frame = CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    };
    if let Err(error) = tunnel.close(Some(frame)).await {
        return Err(broken("Close", &error));
    }
    loop {
        match tunnel.next().await {
            Some(Ok(Message::Close(frame))) => {
                let frame = frame.as_ref();
                let told = Told::default()
                    .line(frame.map_or_else(|| "no code".into(), spelled))
                    .fact("code", frame.map(|frame| u16::from(frame.code)))
                    .fact("reason", frame.map(|frame| harmless(&frame.reason)));
                return Ok(((), told));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken("Close", &error)),
            None => return Err(broken("Close", &Error::ConnectionClosed)),
        }
    }
}

/// Lets the other side end the connection, as the protocol has it. Nothing depends on that any more.
pub(super) async fn farewell(mut tunnel: Tunnel) {
    let _ = timeout(FAREWELL_MOST, async {
        while let Some(Ok(_)) = tunnel.next().await {}
    })
    .await;
}

fn broken(awaited: &str, error: &Error) -> Failure {
    let how = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was ended".into(),
        Error::Protocol(fault) => format!("what came is no WebSocket: {fault}"),
        other => other.to_string(),
    };
    Failure::new(format!("no {awaited}: {how}"))
        .hint("the log of tidegate says how the tunnel ended, and whose doing that was")
}

/// A Close, as far as it fits on a line.
fn spelled(frame: &CloseFrame) -> String {
    let code = u16::from(frame.code);
    match frame.reason.as_str() {
        "" => code.to_string(),
        reason => format!("{code} `{}`", harmless(reason)),
    }
}

/// What nobody can guess.
pub(super) fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // It does not fail; if it did, the probe would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
