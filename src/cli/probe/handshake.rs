//! The handshake of a probe: what is asked, and what a refusal says.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use http::{HeaderName, HeaderValue};
use httparse::Status;
use tidegate::config::model::{Strictness, WebSocketProbe};
use tidegate::net::stream::Stream;
use tidegate::protocol::health_request::HealthRequest;
use tidegate::upstream::connect::EndpointConnection;
use tidegate::upstream::exchange::{EndpointResponse, ExchangeError, exchange};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::messages::{ProbeTunnel, random};
use super::text::harmless;
use super::url::Url;

/// How much of the body of a refusal is read, to find its first line.
const BODY_MOST: usize = 4 * 1024;

/// How long that may take.
const BODY_WITHIN: Duration = Duration::from_secs(1);

/// How long a message may be that comes before the Pong.
const MESSAGE_MOST: usize = 16 * 1024 * 1024;

/// What servers see in their logs.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"), " (probe)"));

/// What a handshake has besides what each has.
#[derive(Debug)]
pub(super) struct RequestExtras {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) subprotocols: Vec<Box<str>>,
}

/// `NAME:VALUE`.
pub(super) fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME:VALUE")?;
    let name: HeaderName = name
        .trim()
        .parse()
        .map_err(|_| format!("`{}` is no name of a field", name.trim()))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of `{name}` cannot be sent"))?;
    if name == "sec-websocket-protocol" {
        return Err("`--subprotocol` offers subprotocols".into());
    }
    let framing = [CONNECTION, UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING];
    if framing.contains(&name) || name.as_str().starts_with("sec-websocket-") {
        return Err(format!("`{name}` is the handshake's own"));
    }
    Ok((name, value))
}

/// A token (RFC 6455 section 4.1).
pub(super) fn subprotocol(text: &str) -> Result<Box<str>, String> {
    // Names of fields are tokens, too.
    match text.parse::<HeaderName>() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("a subprotocol is one word, without spaces and commas".into()),
    }
}

/// Asks for a tunnel.
pub(super) async fn open(
    url: &Url,
    wishes: RequestExtras,
    stream: Stream,
) -> LegOutcome<ProbeTunnel> {
    let RequestExtras {
        mut headers,
        subprotocols,
    } = wishes;
    let host = headers.iter().rfind(|(name, _)| name == "host");
    let host = host.and_then(|(_, value)| Some(value.to_str().ok()?.into()));
    if headers.iter().all(|(name, _)| *name != USER_AGENT) {
        headers.push((USER_AGENT, AGENT));
    }
    let settings = WebSocketProbe {
        path: url.path.clone(),
        // The one of the URL, unless there is a field for it.
        host,
        origin: None,
        subprotocols,
        headers,
        ping: true,
    };
    let health_request = HealthRequest::handshake(&settings, &url.authority, random())
        .map_err(|_| LegFailure::new("the path, the host or a field cannot be sent"))?;
    let reached = EndpointConnection { stream, port: None };
    let answered = exchange(reached, &health_request.to_bytes())
        .await
        .map_err(|error| unanswered(url, &error))?;
    let Some(answer) = answered.answer() else {
        return Err(LegFailure::new("the answer cannot be read"));
    };
    if !answer.is_switch() {
        return Err(refused(answered).await);
    }
    let told = Findings::default().fact("status", 101);
    let told = match health_request.switch(&answer, Strictness::Strict) {
        Ok(switch) => match switch.subprotocol() {
            Some(name) => told
                .line(format!("101, subprotocol {}", harmless(name)))
                .fact("subprotocol", name),
            None => told
                .line("101, no subprotocol")
                .fact("subprotocol", None::<&str>),
        },
        Err(fault) => {
            let failure = LegFailure::new(format!(
                "clients refuse the answer: {}",
                harmless(&fault.to_string())
            ));
            let told = told.line("101, but not one that clients take");
            return Err(failure.told(told));
        }
    };
    let read_ahead = answered.read_ahead().to_vec();
    let stream = answered.reached.stream;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MOST))
        .max_frame_size(Some(MESSAGE_MOST));
    let tunnel =
        WebSocketStream::from_partially_read(stream, read_ahead, Role::Client, Some(limits));
    let tunnel = tunnel.await;
    Ok((tunnel, told))
}

/// There is no answer, or none in HTTP.
fn unanswered(url: &Url, error: &ExchangeError) -> LegFailure {
    let text = error.to_string();
    let failure = LegFailure::new(&*text);
    if text.contains("CertificateRequired") {
        return failure
            .hint("clients have to show a certificate there, which a probe does not have");
    }
    match error {
        ExchangeError::TooLong | ExchangeError::TooManyInterim => failure,
        ExchangeError::Broken(_) if url.secure => failure,
        ExchangeError::Broken(_) => failure.hint("does it speak TLS? try wss://"),
        _ if url.secure => failure.hint("does a WebSocket server listen there?"),
        _ => failure.hint("does it speak TLS (try wss://), or wait for a PROXY header?"),
    }
}

/// What a refusal says.
async fn refused(mut answered: EndpointResponse) -> LegFailure {
    let body = first_line(&mut answered).await;
    let Some(answer) = answered.answer() else {
        return LegFailure::new("the answer cannot be read");
    };
    let status = answer.status().map_or(0, |status| status.as_u16());
    let reason = answer.first("tidegate-reason").map(harmless);
    let location = answer.first("location").map(harmless);
    let mut short = status.to_string();
    let mut why = format!("answered {status} instead of 101");
    if let Some(reason) = &reason {
        short.push_str(&format!(" {reason}"));
        why.push_str(&format!(" ({reason})"));
    }
    let mut told = Findings::default().line(short);
    if let Some(body) = &body {
        why.push_str(&format!(": {body}"));
        told = told.line(body);
    }
    let told = told
        .fact("status", status)
        .fact("reason", reason.clone())
        .fact("body", body);
    let failure = LegFailure::new(why).told(told);
    match (reason, location, status) {
        (Some(reason), ..) => failure.hint(format!(
            "this is tidegate's own answer: docs/reasons.md tells what `{reason}` is about, and \
             `tidegate explain URL` on its machine how it came to that"
        )),
        (None, Some(location), 300..=399) => failure.hint(format!(
            "browsers follow no redirects of WebSockets; it leads to {location}"
        )),
        (None, _, 401 | 403) => failure.hint(
            "the server wants to know who asks: `--origin` or `--header` (cookie, authorization) \
             may tell it",
        ),
        (None, _, 200..=299) => {
            failure.hint("what listens at this path is plain HTTP, no WebSocket server")
        }
        _ => failure.hint(
            "an answer without `tidegate-reason` is the endpoint's, not tidegate's, unless \
             `server.reason_header` is off",
        ),
    }
}

/// The first line of the body that says something, as far as it comes soon.
async fn first_line(answered: &mut EndpointResponse) -> Option<String> {
    let answer = answered.answer()?;
    let chunked = answer.first("transfer-encoding").is_some();
    let length = answer.first("content-length");
    let length = length.and_then(|length| length.parse().ok());
    let length = length.unwrap_or(BODY_MOST).min(BODY_MOST);
    let reading = async {
        loop {
            let (body, ended) = body(answered.read_ahead(), length, chunked);
            if ended || line(&body, ended).is_some() {
                break;
            }
            match answered.reached.stream.read_buf(&mut answered.bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    let _ = timeout(BODY_WITHIN, reading).await;
    line(&body(answered.read_ahead(), length, chunked).0, true)
}

/// The body in `bytes`, of `length` at most, and whether no more of it is wanted.
fn body(bytes: &[u8], length: usize, chunked: bool) -> (Vec<u8>, bool) {
    if !chunked {
        let body = bytes.get(..length).unwrap_or(bytes);
        return (body.to_vec(), body.len() == length);
    }
    let (mut body, mut rest) = (Vec::new(), bytes);
    while body.len() < length {
        match httparse::parse_chunk_size(rest) {
            Ok(Status::Complete((head, size @ 1..))) => {
                rest = rest.get(head..).unwrap_or_default();
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                let (chunk, behind) = rest.split_at(size.min(rest.len()));
                body.extend_from_slice(chunk);
                // Its line break.
                rest = behind.get(2..).unwrap_or_default();
            }
            // The last one, or what is none.
            Ok(Status::Complete(_)) | Err(_) => return (body, true),
            Ok(Status::Partial) => return (body, false),
        }
    }
    (body, true)
}

/// The first line that is not empty; one without an end only where no more comes.
fn line(body: &[u8], ended: bool) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let whole = match text.rsplit_once('\n') {
        _ if ended => &text,
        Some((whole, _)) => whole,
        None => return None,
    };
    whole.lines().map(harmless).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_and_a_value() {
        let (name, value) = field("Cookie: sid=a:b").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("cookie", "sid=a:b")
        );
        for (text, expected) in [
            ("cookie", "write NAME:VALUE"),
            (": x", "no name"),
            ("x: a\r\ny: b", "cannot be sent"),
            ("Upgrade: h2c", "the handshake's own"),
            ("sec-websocket-key: x", "the handshake's own"),
            ("sec-websocket-protocol: x", "--subprotocol"),
        ] {
            let error = field(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(subprotocol("graphql-transport-ws").is_ok());
        assert!(subprotocol("a, b").is_err());
    }

    #[test]
    fn a_refusal_is_quoted_by_its_first_line() {
        for (bytes, chunked, expected) in [
            ("No route.\nmore", false, Some("No route.")),
            ("\r\n  <html>\r\nmore", false, Some("<html>")),
            (
                "4\r\nNo r\r\n6\r\noute.\n\r\n9\r\nm",
                true,
                Some("No route."),
            ),
            ("4\r\nNo r\r\n6\r\nout", true, None),
            ("No rou", false, None),
            ("", false, None),
        ] {
            let (body, ended) = body(bytes.as_bytes(), 100, chunked);
            assert!(!ended);
            assert_eq!(line(&body, ended).as_deref(), expected);
        }
        for (bytes, chunked) in [
            ("No rou", false),
            ("2\r\nNo\r\n4\r\n rou\r\n0\r\n\r\n", true),
            ("6\r\nNo rou\r\nnothing", true),
        ] {
            let (body, ended) = body(bytes.as_bytes(), 6, chunked);
            assert!(ended);
            assert_eq!(line(&body, ended).as_deref(), Some("No rou"));
        }
    }
}
