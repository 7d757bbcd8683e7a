//! The WebSockets of the backends: a chat room and an echo.

use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::state::BackendState;

/// The maximum length of a name and of a chat message, in characters.
const MAX_NAME_LENGTH: usize = 24;
const MAX_TEXT_LENGTH: usize = 500;

/// The kind of a WebSocket.
#[derive(Debug, Clone, Copy)]
pub(super) enum SocketKind {
    Chat,
    Echo,
}

/// The first message of a backend: which one it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) backend: usize,
}

/// A message of a client in the chat room.
#[derive(Debug, Deserialize)]
struct ChatMessage {
    name: String,
    text: String,
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
    let hello = Hello {
        backend: backend.number,
    };
    socket.send(Message::text(json!(hello).to_string())).await?;
    match kind {
        SocketKind::Chat => chat(&mut socket, backend).await,
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
            backend.count_message();
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn chat<S>(socket: &mut WebSocketStream<S>, backend: &BackendState) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut room = backend.room.subscribe();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(message) = message.transpose()? else { return Ok(()) };
                let Ok(said) = message.to_text().map_err(drop).and_then(|text| {
                    serde_json::from_str::<ChatMessage>(text).map_err(drop)
                }) else { continue };
                backend.count_message();
                let name: String = said.name.chars().take(MAX_NAME_LENGTH).collect();
                let words: String = said.text.chars().take(MAX_TEXT_LENGTH).collect();
                let line = json!({ "name": name, "text": words, "backend": backend.number });
                // Fails only if no client is in the room.
                let _ = backend.room.send(line.to_string().into());
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
