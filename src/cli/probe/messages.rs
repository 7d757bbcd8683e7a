//! The last legs of a probe: a Ping and a Close through the open tunnel.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tidegate::net::stream::Stream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::harmless;

/// How long the other side may take to end the connection after its Close, before it is dropped.
const FAREWELL_MOST: Duration = Duration::from_millis(500);

/// A tunnel through the URL.
pub(super) type ProbeTunnel = WebSocketStream<Stream>;

/// Sends a Ping and waits for its Pong.
pub(super) async fn ping(tunnel: &mut ProbeTunnel) -> LegOutcome<()> {
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
                    LegFailure::new(format!("closed with {how} instead of a Pong")).hint(
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
    let told = Findings::default().line(line).fact("messages", passed_over);
    Ok(((), told))
}

/// Sends a Close and waits for the other one.
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
                let told = Findings::default()
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
pub(super) async fn farewell(mut tunnel: ProbeTunnel) {
    let _ = timeout(FAREWELL_MOST, async {
        while let Some(Ok(_)) = tunnel.next().await {}
    })
    .await;
}

fn broken(awaited: &str, error: &Error) -> LegFailure {
    let how = match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "the connection was ended".into(),
        Error::Protocol(fault) => format!("what came is no WebSocket: {fault}"),
        other => other.to_string(),
    };
    LegFailure::new(format!("no {awaited}: {how}"))
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
