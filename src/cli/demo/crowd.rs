//! The simulated clients: each has one WebSocket, and comes back when that is closed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::background::background;
use super::sockets::Hello;

/// The number of simulated clients: enough that a third of them is a visible number.
const CLIENTS: usize = 24;

/// The number of closes that are kept for pages that ask late.
const KEPT_CLOSES: usize = 500;

/// How often a client sends a message.
const TALK_INTERVAL: Duration = Duration::from_secs(1);

/// The wait before the first new attempt, and the longest one, in milliseconds.
const FIRST_WAIT: u64 = 100;
const LONGEST_WAIT: u64 = 2000;

/// The status code that stands for the absence of a Close frame.
const ABNORMAL: u16 = 1006;

/// The clients, and what happened to them.
#[derive(Debug)]
pub(super) struct Crowd {
    socket: PathBuf,
    closes: Mutex<CloseHistory>,
}

#[derive(Debug, Default)]
struct CloseHistory {
    count: u64,
    latest: VecDeque<ObservedClose>,
}

/// How the WebSocket of a client was closed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ObservedClose {
    /// Counted from 1, over all clients.
    number: u64,
    /// The backend that it led to.
    backend: usize,
    code: u16,
    reason: String,
}

impl Crowd {
    /// Clients of the listener at this unix socket, which do not connect yet.
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            closes: Mutex::default(),
        }
    }

    /// Lets all clients connect.
    pub(super) fn enter(self: &Arc<Self>) {
        for number in 1..=CLIENTS {
            background(Arc::clone(self).client(number));
        }
    }

    /// The closes after number `since` that are still known.
    pub(super) fn closes(&self, since: u64) -> Vec<ObservedClose> {
        let closes = self.closes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = closes.latest.iter().filter(|close| close.number > since);
        new.cloned().collect()
    }

    async fn client(self: Arc<Self>, number: usize) {
        let mut wait = FIRST_WAIT;
        loop {
            // Never all at once.
            sleep(Duration::from_millis(fastrand::u64(wait / 2..=wait))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
            let Ok((socket, backend)) = connect(&self.socket, number).await else {
                continue;
            };
            wait = FIRST_WAIT;
            let frame = talk(socket).await.unwrap_or_default();
            self.record(backend, frame);
        }
    }

    fn record(&self, backend: usize, frame: Option<CloseFrame>) {
        let mut closes = self.closes.lock().unwrap_or_else(PoisonError::into_inner);
        closes.count += 1;
        let close = ObservedClose {
            number: closes.count,
            backend,
            code: frame.as_ref().map_or(ABNORMAL, |frame| frame.code.into()),
            reason: frame
                .map(|frame| frame.reason.to_string())
                .unwrap_or_default(),
        };
        closes.latest.push_back(close);
        if closes.latest.len() > KEPT_CLOSES {
            closes.latest.pop_front();
        }
    }
}

/// Opens a WebSocket; returns the number of its backend, too.
async fn connect(
    path: &Path,
    number: usize,
) -> Result<(WebSocketStream<UnixStream>, usize), Error> {
    let stream = UnixStream::connect(path).await?;
    let url = format!("ws://localhost/echo/client-{number}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    let first = socket.next().await.ok_or(Error::ConnectionClosed)??;
    let hello: Result<Hello, _> = serde_json::from_str(first.to_text()?);
    let hello = hello.map_err(|error| Error::Io(std::io::Error::other(error)))?;
    Ok((socket, hello.backend))
}

/// Sends messages and receives their echoes until the end; returns the Close frame, if one came.
async fn talk(mut socket: WebSocketStream<UnixStream>) -> Result<Option<CloseFrame>, Error> {
    let mut ticks = interval(TALK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut close = None;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                // The answer to it is sent while the stream is read to its end.
                Some(Ok(Message::Close(frame))) => close = frame,
                Some(Ok(_)) => {}
                // An error after a Close frame does not change how it was closed.
                Some(Err(_)) | None => return Ok(close),
            },
            _ = ticks.tick(), if close.is_none() => socket.send(Message::text("hello")).await?,
        }
    }
}
