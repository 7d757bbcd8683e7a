//! The last steps of a probe: a Ping and a Close through the open tunnel.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tidegate::net::stream::Stream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::printable;

/// The time that the server has to end the connection after its Close, before the probe drops it.
const END_TIMEOUT: Duration = Duration::from_millis(500);

/// The open WebSocket.
pub(super) type ProbeTunnel = WebSocketStream<Stream>;

/// Sends a Ping and waits for its Pong.
pub(super) async fn ping(tunnel: &mut ProbeTunnel) -> LegOutcome<()> {
    let payload = random::<8>().to_vec();
    let ping = Message::Ping(payload.clone().into());
    if let Err(error) = tunnel.send(ping).await {
        return Err(broken("Pong", &error));
    }
    let mut skipped = 0_u32;
    loop {
        match tunnel.next().await {
            Some(Ok(Message::Pong(pong))) if *pong == *payload => break,
            Some(Ok(Message::Close(frame))) => {
                let how = frame.as_ref().map_or_else(|| "no code".into(), described);
                return Err(
                    LegFailure::new(format!("closed with {how} instead of a Pong")).hint(
                        "the server may require something that the probe has not sent: see \
                     `--header`, `--subprotocol` and `--origin`",
                    ),
                );
            }
            Some(Ok(Message::Text(_) | Message::Binary(_))) => skipped += 1,
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken("Pong", &error)),
            None => return Err(broken("Pong", &Error::ConnectionClosed)),
        }
    }
    let line = match skipped {
        0 => "Pong".to_owned(),
        1 => "Pong, after 1 message".to_owned(),
        many => format!("Pong, after {many} messages"),
    };
    let findings = Findings::default().line(line).fact("messages", skipped);
    Ok(((), findings))
}

/// Sends a Close and waits for the Close in return.
pub(super) async fn close(tunnel: &mut ProbeTunnel) -> LegOutcome<()> {
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
                let findings = Findings::default()
                    .line(frame.map_or_else(|| "no code".into(), described))
                    .fact("code", frame.map(|frame| u16::from(frame.code)))
                    .fact("reason", frame.map(|frame| printable(&frame.reason)));
                return Ok(((), findings));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken("Close", &error)),
            None => return Err(broken("Close", &Error::ConnectionClosed)),
        }
    }
}

/// Waits for the server to end the connection first, as RFC 6455 section 7.1.1 asks for. The result of
/// the probe does not depend on it.
pub(super) async fn await_end(mut tunnel: ProbeTunnel) {
    let _ = timeout(END_TIMEOUT, async {
        while let Some(Ok(_)) = tunnel.next().await {}
    })
    .await;
}

fn broken(awaited: &str, error: &Error) -> LegFailure {
    let how = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was closed".into(),
        Error::Protocol(fault) => format!("the data is not valid WebSocket framing: {fault}"),
        other => other.to_string(),
    };
    LegFailure::new(format!("no {awaited}: {how}"))
        .hint("the log of tidegate says how the tunnel ended, and which side ended it")
}

/// A Close frame on one line.
fn described(frame: &CloseFrame) -> String {
    let code = u16::from(frame.code);
    match frame.reason.as_str() {
        "" => code.to_string(),
        reason => format!("{code} `{}`", printable(reason)),
    }
}

/// Bytes that cannot be guessed.
pub(super) fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // This does not fail in practice; if it did, the probe would still be valid.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}
