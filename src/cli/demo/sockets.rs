//! The WebSockets of the backends: a chat room, a dashboard and an echo.

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

/// The interval of dashboard messages.
const PUSH_INTERVAL: Duration = Duration::from_millis(250);

/// The maximum length of a name and of a chat message, in characters.
const MAX_NAME_LENGTH: usize = 24;
const MAX_TEXT_LENGTH: usize = 500;

/// The kind of a WebSocket.
#[derive(Debug, Clone, Copy)]
pub(super) enum SocketKind {
    Chat,
    Dashboard,
    Echo,
}

/// A message of a client in the chat room.
#[derive(Debug, Deserialize)]
struct ChatMessage {
    name: String,
    text: String,
}

/// Counts a live socket of a backend until it is dropped.
struct SocketCount<'a>(&'a AtomicUsize);

impl Drop for SocketCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a WebSocket until either side ends it.
pub(super) async fn run<S>(
    kind: SocketKind,
    mut socket: WebSocketStream<S>,
    backend: &BackendState,
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    backend.tunnels.fetch_add(1, Ordering::Relaxed);
    let _count = SocketCount(&backend.tunnels);
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
                    serde_json::from_str::<ChatMessage>(text).map_err(drop)
                }) else { continue };
                backend.messages.fetch_add(1, Ordering::Relaxed);
                let name: String = said.name.chars().take(MAX_NAME_LENGTH).collect();
                let words: String = said.text.chars().take(MAX_TEXT_LENGTH).collect();
                let line = json!({
                    "type": "said", "name": name, "text": words, "backend": backend.number,
                });
                // Fails only if no client is in the room.
                let _ = backend.shared.room.send(line.to_string().into());
            }
            line = room.recv() => match line {
                Ok(line) => socket.send(Message::text(&*line)).await?,
                // A slow reader continues with the newest messages.
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
    let mut push = tokio::time::interval(PUSH_INTERVAL);
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
