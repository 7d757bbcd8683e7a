//! The clients: tunnels with traffic, idle tunnels, short visits that end in every possible way, plain
//! requests, and bytes that are not a request.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::endpoints::{Fleet, Life};
use super::rig::client::{Client, Stream};
use super::tally::Tally;

/// The number of tunnels with traffic and of idle ones; half of each over TLS.
const BUSY: usize = 120;
const QUIET: usize = 180;

/// The number of connections that send plain requests, one after the other.
const REQUESTING: usize = 10;

/// The interval of short visits, and that of connections that send garbage.
const VISITS: Duration = Duration::from_millis(20);
const GARBAGE: Duration = Duration::from_millis(250);

/// The time after which an operation counts as lost.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What all clients share.
pub(crate) struct World {
    pub(crate) plain: Client,
    pub(crate) secure: Client,
    pub(crate) fleet: Rc<Fleet>,
    pub(crate) tally: Rc<Tally>,
}

/// Runs all clients until the phase is over, and waits until they have left.
pub(crate) async fn crowd(world: Rc<World>, mut over: watch::Receiver<bool>) {
    let mut all = JoinSet::new();
    for number in 0..BUSY {
        all.spawn_local(talk(Rc::clone(&world), number, over.clone()));
    }
    for number in 0..QUIET {
        all.spawn_local(stay(Rc::clone(&world), number, over.clone()));
    }
    for number in 0..REQUESTING {
        all.spawn_local(request(Rc::clone(&world), number, over.clone()));
    }
    let [mut visits, mut garbage] = [VISITS, GARBAGE].map(|period| {
        let mut interval = tokio::time::interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    });
    let mut number = 0;
    while !*over.borrow() {
        number += 1;
        tokio::select! {
            _ = visits.tick() => { all.spawn_local(visit(Rc::clone(&world), number)); }
            _ = garbage.tick() => { all.spawn_local(disturb(Rc::clone(&world), number)); }
            _ = over.changed() => {}
            Some(ended) = all.join_next() => count_failure(&world, ended),
        }
    }
    while let Some(ended) = all.join_next().await {
        count_failure(&world, ended);
    }
}

fn count_failure(world: &World, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        world
            .tally
            .fault(&format!("a client of the benchmark: {error}"));
    }
}

/// How a tunnel, or an attempt to open one, was lost.
enum Lost {
    Close(u16, String),
    Gone(String),
    /// A timeout. The end of an endpoint or of a generation does not excuse one.
    Late(&'static str),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(code, reason) => write!(f, "Close {code} `{reason}`"),
            Self::Gone(how) => f.write_str(how),
            Self::Late(what) => write!(f, "timed out waiting for {what}"),
        }
    }
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self::Gone(error.to_string())
    }
}

struct Tunnel {
    frames: WebSocketStream<Stream>,
    with: With,
}

/// What is known of the process and the endpoint that serve a connection.
#[derive(Debug, Clone, Copy)]
struct With {
    /// The number of upgrades complete before the connection began: none of these can close it.
    upgrades: u64,
    life: Option<Life>,
}

impl World {
    fn client(&self, number: usize) -> &Client {
        match number % 2 {
            0 => &self.plain,
            _ => &self.secure,
        }
    }

    /// The state before a connection is made.
    fn with(&self) -> With {
        With {
            upgrades: self.tally.of("upgrades, over"),
            life: None,
        }
    }

    /// Whether the generation that serves the connection may be draining.
    fn may_be_draining(&self, with: With) -> bool {
        self.tally.of("upgrades, begun") > with.upgrades
    }

    /// Opens a tunnel and reads the greeting. A failure is counted here.
    async fn open(&self, number: usize) -> Option<Tunnel> {
        let (began, mut with) = (Instant::now(), self.with());
        let opening = async {
            let opened = self.client(number).try_open("/chat").await;
            let opened = opened.map_err(|error| Lost::Gone(error.to_string()))?;
            let (stream, early) = (opened.stream, opened.early);
            let mut frames =
                WebSocketStream::from_partially_read(stream, early, Role::Client, None).await;
            self.tally.count("handshakes");
            let greeting = next(&mut frames).await?;
            with.life = greeting.to_text().ok().and_then(Life::of);
            match with.life {
                Some(_) => Ok(Tunnel { frames, with }),
                None => Err(Lost::Gone(format!("greeted by {greeting:?}"))),
            }
        };
        match within("a tunnel", opening).await {
            Ok(tunnel) => Some(tunnel),
            // It may have been at the endpoint that was killed: without a greeting, that is not known.
            Err(Lost::Gone(_)) if self.fleet.killed_one_since(began) => {
                self.tally
                    .count("handshakes under way as an endpoint was killed, lost");
                None
            }
            Err(lost) => {
                self.judge(&lost, with);
                None
            }
        }
    }

    /// Sends a message and expects its echo.
    async fn exchange(&self, tunnel: &mut Tunnel, payload: Vec<u8>) -> Result<(), Lost> {
        let payload = Bytes::from(payload);
        let exchanged = async {
            tunnel.frames.send(Message::Binary(payload.clone())).await?;
            next(&mut tunnel.frames).await
        };
        let back = within("an echo", exchanged).await?;
        if back == Message::Binary(payload) {
            self.tally.count("messages, echoed");
        } else {
            self.tally.fault("something else came back");
        }
        Ok(())
    }

    /// Counts the end of a tunnel: as expected, or as a fault.
    fn judge(&self, lost: &Lost, with: With) {
        let killed = with.life.is_some_and(|life| self.fleet.is_over(life));
        match lost {
            Lost::Close(1012, reason) if reason == "shutdown" && self.may_be_draining(with) => {
                self.tally
                    .count("tunnels closed by an old generation, 1012 shutdown");
            }
            Lost::Close(1012, reason) if reason == "endpoint-down" && killed => {
                self.tally.count("tunnels of a killed endpoint, closed");
            }
            Lost::Gone(_) if killed => self.tally.count("tunnels of a killed endpoint, ended"),
            lost => {
                self.tally.fault(&format!("tunnel {with:?}: {lost}"));
            }
        }
    }

    /// Sends a Close and reads up to the Close of the other side.
    async fn leave(&self, mut tunnel: Tunnel) {
        let with = tunnel.with;
        let leaving = async {
            tunnel.frames.close(None).await?;
            loop {
                match tunnel.frames.next().await {
                    Some(Ok(Message::Close(_))) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Err(Lost::Gone("no Close in return".to_owned())),
                }
            }
        };
        match within("a Close in return", leaving).await {
            Ok(()) => self.tally.count("tunnels closed by us, answered"),
            Err(lost) => self.judge(&lost, with),
        }
    }
}

async fn within<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, Lost>>,
) -> Result<T, Lost> {
    let done = tokio::time::timeout(TIMEOUT, work).await;
    done.unwrap_or(Err(Lost::Late(what)))
}

/// The next message. Pings are answered on the way.
async fn next(frames: &mut WebSocketStream<Stream>) -> Result<Message, Lost> {
    loop {
        match frames.next().await {
            Some(Ok(Message::Close(close))) => {
                let (code, reason) = match close {
                    Some(close) => (close.code.into(), close.reason.to_string()),
                    None => (1005, String::new()),
                };
                // As a client does: the reply goes out with this, and the server ends the connection.
                while let Some(Ok(_)) = frames.next().await {}
                return Err(Lost::Close(code, reason));
            }
            Some(Ok(message)) if message.is_text() || message.is_binary() => return Ok(message),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => return Err(Lost::Gone("the end, without a Close".to_owned())),
        }
    }
}

fn payload() -> Vec<u8> {
    let length = match fastrand::u8(..) {
        0..=1 => fastrand::usize(..1 << 20),
        2..=30 => fastrand::usize(..1 << 16),
        31..=60 => 0,
        _ => fastrand::usize(..1000),
    };
    std::iter::repeat_with(|| fastrand::u8(..))
        .take(length)
        .collect()
}

fn seconds(range: std::ops::Range<f64>) -> Duration {
    Duration::from_secs_f64(range.start + fastrand::f64() * (range.end - range.start))
}

/// A random delay before a client reconnects, so that not all do so at once.
async fn pause() {
    tokio::time::sleep(seconds(0.05..1.0)).await;
}

/// A tunnel that sends messages all the time.
async fn talk(world: Rc<World>, number: usize, over: watch::Receiver<bool>) {
    pause().await;
    while !*over.borrow() {
        let Some(mut tunnel) = world.open(number).await else {
            pause().await;
            continue;
        };
        let lost = loop {
            if *over.borrow() {
                return world.leave(tunnel).await;
            }
            if let Err(lost) = world.exchange(&mut tunnel, payload()).await {
                break lost;
            }
            tokio::time::sleep(seconds(0.05..0.5)).await;
        };
        world.judge(&lost, tunnel.with);
        pause().await;
    }
}

/// An idle tunnel: it only answers Pings for up to two minutes, then sends a message and closes.
async fn stay(world: Rc<World>, number: usize, mut over: watch::Receiver<bool>) {
    pause().await;
    while !*over.borrow() {
        let Some(mut tunnel) = world.open(number).await else {
            pause().await;
            continue;
        };
        let lost = tokio::select! {
            message = next(&mut tunnel.frames) => match message {
                Ok(message) => Some(Lost::Gone(format!("unasked: {message:?}"))),
                Err(lost) => Some(lost),
            },
            () = tokio::time::sleep(seconds(10.0..120.0)) => None,
            _ = over.changed() => None,
        };
        let lost = match lost {
            Some(lost) => Err(lost),
            None => world.exchange(&mut tunnel, payload()).await,
        };
        match lost {
            Ok(()) => world.leave(tunnel).await,
            Err(lost) => world.judge(&lost, tunnel.with),
        }
    }
}

/// A short visit of a few messages, which ends by a Close, by the end of the connection, or by a reset.
async fn visit(world: Rc<World>, number: usize) {
    let Some(mut tunnel) = world.open(number).await else {
        return;
    };
    for _ in 0..fastrand::u8(1..4) {
        if let Err(lost) = world.exchange(&mut tunnel, payload()).await {
            return world.judge(&lost, tunnel.with);
        }
        tokio::time::sleep(seconds(0.0..1.5)).await;
    }
    match fastrand::u8(..10) {
        0..6 => world.leave(tunnel).await,
        6..8 => world.tally.count("tunnels ended by us, without a Close"),
        _ => {
            // In the middle of a message, as when the machine of a client is switched off.
            let _ = tunnel.frames.feed(Message::Binary(payload().into())).await;
            reset(tunnel.frames.get_ref());
            world.tally.count("tunnels ended by us, by a reset");
        }
    }
}

fn reset(stream: &Stream) {
    // This fails if the other side has reset the connection already.
    let _ = match stream {
        Stream::Plain(stream) => stream.set_zero_linger(),
        Stream::Tls(stream) => stream.get_ref().0.set_zero_linger(),
    };
}

/// Bytes that are not a handshake, or only the beginning of one. The proxy has to end the connection.
async fn disturb(world: Rc<World>, number: usize) {
    let client = if number % 4 == 3 {
        &world.secure
    } else {
        &world.plain
    };
    let bytes: Vec<u8> = match number % 5 {
        0 => std::iter::repeat_with(|| fastrand::u8(..))
            .take(600)
            .collect(),
        1 => b"GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgr".to_vec(),
        2 => Vec::new(),
        3 => b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
            .to_vec(),
        _ => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and no more".to_vec(),
    };
    let Ok(mut stream) = client.connect().await else {
        return world.tally.fault("a connection was refused");
    };
    world
        .tally
        .count("connections with garbage, or half of a handshake");
    let sent = async {
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        if fastrand::bool() {
            // Waits until the proxy ends the connection.
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            if answer.starts_with(b"HTTP/1.1 101") {
                world.tally.fault("half of a handshake became a tunnel");
            }
        }
        io::Result::Ok(())
    };
    if tokio::time::timeout(TIMEOUT, sent).await.is_err() {
        world
            .tally
            .fault("half of a handshake is waited for without end");
    }
    if fastrand::bool() {
        reset(&stream);
    }
}

/// Plain requests on connections that are kept, and now and then are not.
async fn request(world: Rc<World>, number: usize, over: watch::Receiver<bool>) {
    while !*over.borrow() {
        let with = world.with();
        let Ok(mut stream) = world.client(number).connect().await else {
            world.tally.fault("a connection was refused");
            pause().await;
            continue;
        };
        for turn in 0..fastrand::u32(1..30) {
            let began = Instant::now();
            match within("a reply", get(&mut stream)).await {
                Ok(true) => world.tally.count("requests"),
                Ok(false) | Err(Lost::Gone(_)) if world.fleet.killed_one_since(began) => {
                    world
                        .tally
                        .count("requests under way as an endpoint was killed, lost");
                    break;
                }
                // A draining generation closes connections between two requests. A request sent at that
                // moment has to be repeated.
                Err(Lost::Gone(_)) if turn > 0 && world.may_be_draining(with) => {
                    world
                        .tally
                        .count("kept connections that were closed in between");
                    break;
                }
                Ok(false) => {
                    world.tally.fault("a request has got another answer");
                    break;
                }
                Err(lost) => {
                    world.tally.fault(&format!("request: {lost}"));
                    break;
                }
            }
            tokio::time::sleep(seconds(0.02..0.4)).await;
            if *over.borrow() {
                return;
            }
        }
    }
}

/// Whether the response is the right one.
async fn get(stream: &mut Stream) -> Result<bool, Lost> {
    let path = format!("/number/{}", fastrand::u64(..));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let got = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        while !answer.ends_with(path.as_bytes()) {
            match stream.read_buf(&mut answer).await {
                Ok(1..) => {}
                Err(error) if answer.is_empty() => return Err(error),
                // An incomplete response is not a response.
                _ => break,
            }
            if !answer.starts_with(&b"HTTP/1.1 200 "[..answer.len().min(13)]) {
                return Ok(answer);
            }
        }
        io::Result::Ok(answer)
    };
    let answer = got.await.map_err(|error| Lost::Gone(error.to_string()))?;
    if answer.is_empty() {
        return Err(Lost::Gone("the end instead of a reply".to_owned()));
    }
    Ok(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(path.as_bytes()))
}
