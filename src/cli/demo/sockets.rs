//! What the backends' WebSockets do: a chat room, a dashboard, an echo.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::state::BackendState;

/// How often the dashboard is pushed.
const PUSH_EVERY: Duration = Duration::from_millis(250);

/// Characters of a name and of a chat message.
const NAME_MOST: usize = 24;
const TEXT_MOST: usize = 500;

/// What a socket does.
#[derive(Debug, Clone, Copy)]
pub(super) enum SocketKind {
    Chat,
    Dashboard,
    Echo,
}

/// What a client says in the chat room.
#[derive(Debug, Deserialize)]
struct Said {
    name: String,
    text: String,
}

/// A live socket of a backend.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a socket until either side ends it.
pub(super) async fn run<S>(
    kind: SocketKind,
    mut socket: WebSocketStream<S>,
    backend: &BackendState,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    backend.tunnels.fetch_add(1, Ordering::Relaxed);
    let _counted = Counted(&backend.tunnels);
    let hello = json!({ "type": "hello", "backend": backend.number });
    socket.send(text(&hello)).await?;
    match kind {
        SocketKind::Chat => chat(&mut socket, backend).await,
        SocketKind::Dashboard => dashboard(&mut socket, backend).await,
        SocketKind::Echo => echo(&mut socket, backend).await,
    }
}

async fn echo<S>(socket: &mut WebSocketStream<S>, backend: &BackendState) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            backend.messages.fetch_add(1, Ordering::Relaxed);
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn chat<S>(socket: &mut WebSocketStream<S>, backend: &BackendState) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut room = backend.shared.room.subscribe();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(message) = message.transpose()? else { return Ok(()) };
                let Ok(said) = message.to_text().map_err(drop).and_then(|text| {
                    serde_json::from_str::<Said>(text).map_err(drop)
                }) else { continue };
                backend.messages.fetch_add(1, Ordering::Relaxed);
                let name: String = said.name.chars().take(NAME_MOST).collect();
                let words: String = said.text.chars().take(TEXT_MOST).collect();
                let line = json!({
                    "type": "said", "name": name, "text": words, "backend": backend.number,
                });
                // Nobody there is fine: then nobody misses it.
                let _ = backend.shared.room.send(line.to_string().into());
            }
            line = room.recv() => match line {
                Ok(line) => socket.send(Message::text(&*line)).await?,
                // A reader that fell behind goes on with what is new.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

async fn dashboard<S>(socket: &mut WebSocketStream<S>, backend: &BackendState) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut push = tokio::time::interval(PUSH_EVERY);
    loop {
        tokio::select! {
            message = socket.next() => if message.transpose()?.is_none() { return Ok(()) },
            _ = push.tick() => {
                backend.messages.fetch_add(1, Ordering::Relaxed);
                socket.send(text(&json!({
                    "type": "status",
                    "backend": backend.number,
                    "seconds": backend.shared.since.elapsed().as_secs(),
                    "backends": backend.shared.status(),
                }))).await?;
            }
        }
    }
}

fn text(value: &serde_json::Value) -> Message {
    Message::text(value.to_string())
}
