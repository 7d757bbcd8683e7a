//! The handshake of a probe: the request, and the response.

use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue};
use httparse::Status;
use tidegate::config::model::{Strictness, WebSocketProbe};
use tidegate::net::stream::Stream;
use tidegate::protocol::handshake_response::DEFAULT_LINES;
use tidegate::protocol::health_request::HealthRequest;
use tidegate::upstream::connect::EndpointConnection;
use tidegate::upstream::exchange::{EndpointResponse, ExchangeError, exchange};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::messages::{ProbeTunnel, random};
use super::text::printable;
use super::url::Url;

/// The part of a rejection's body that is read to find its first line, in bytes.
const MAX_BODY_BYTES: usize = 4 * 1024;

/// The time limit for reading that body.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum size of a message that arrives before the Pong, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// What the options add to the handshake.
#[derive(Debug)]
pub(super) struct RequestExtras {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) subprotocols: Vec<Box<str>>,
}

/// `NAME:VALUE`.
pub(super) fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("use NAME:VALUE")?;
    let name: HeaderName = name
        .trim()
        .parse()
        .map_err(|_| format!("`{}` is not a valid header name", name.trim()))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of `{name}` is not a valid header value"))?;
    if name == "sec-websocket-protocol" {
        return Err("use `--subprotocol` to offer subprotocols".into());
    }
    let framing = [CONNECTION, UPGRADE, CONTENT_LENGTH, TRANSFER_ENCODING];
    if framing.contains(&name) || name.as_str().starts_with("sec-websocket-") {
        return Err(format!("`{name}` is set by the handshake itself"));
    }
    Ok((name, value))
}

/// A token (RFC 6455 section 4.1).
pub(super) fn subprotocol(text: &str) -> Result<Box<str>, String> {
    // Header names have exactly the syntax of tokens, so their parser decides.
    match text.parse::<HeaderName>() {
        Ok(_) => Ok(text.into()),
        Err(_) => Err("a subprotocol must not contain spaces or commas".into()),
    }
}

/// Performs the handshake.
pub(super) async fn open(
    url: &Url,
    wishes: RequestExtras,
    stream: Stream,
) -> LegOutcome<ProbeTunnel> {
    let RequestExtras {
        headers,
        subprotocols,
    } = wishes;
    let host = headers.iter().rfind(|(name, _)| name == "host");
    let host = host.and_then(|(_, value)| Some(value.to_str().ok()?.into()));
    let mut settings = WebSocketProbe {
        path: url.path.clone(),
        // The host of the URL, unless `--header` sets one.
        host,
        origin: None,
        subprotocols,
        headers,
        ping: true,
    };
    settings.add_user_agent();
    let health_request = HealthRequest::handshake(&settings, &url.authority, random())
        .map_err(|_| LegFailure::new("the path, the host or a header is not valid"))?;
    let reached = EndpointConnection { stream, port: None };
    let answered = exchange(reached, &health_request.to_bytes(), DEFAULT_LINES)
        .await
        .map_err(|error| unanswered(url, &error))?;
    let Some(answer) = answered.head() else {
        return Err(LegFailure::new("the response is not valid HTTP"));
    };
    if !answer.is_switch() {
        return Err(refused(answered).await);
    }
    let findings = Findings::default().fact("status", 101);
    let findings = match health_request.switch(&answer, Strictness::Strict) {
        Ok(switch) => match switch.subprotocol() {
            Some(name) => findings
                .line(format!("101, subprotocol {}", printable(name)))
                .fact("subprotocol", name),
            None => findings
                .line("101, no subprotocol")
                .fact("subprotocol", None::<&str>),
        },
        Err(fault) => {
            let failure = LegFailure::new(format!(
                "clients would refuse the response: {}",
                printable(&fault.to_string())
            ));
            let findings = findings.line("101, but not one that clients accept");
            return Err(failure.findings(findings));
        }
    };
    let read_ahead = answered.read_ahead().to_vec();
    let stream = answered.connection.stream;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let tunnel =
        WebSocketStream::from_partially_read(stream, read_ahead, Role::Client, Some(limits));
    let tunnel = tunnel.await;
    Ok((tunnel, findings))
}

/// The failure of a server that did not send an HTTP response.
fn unanswered(url: &Url, error: &ExchangeError) -> LegFailure {
    let text = error.to_string();
    let failure = LegFailure::new(&*text);
    if text.contains("CertificateRequired") {
        return failure
            .hint("the server requires a client certificate, which a probe cannot present");
    }
    match error {
        ExchangeError::TooLong | ExchangeError::TooManyInterim => failure,
        ExchangeError::Broken(_) if url.secure => failure,
        ExchangeError::Broken(_) => failure.hint("the server may speak TLS: try wss://"),
        _ if url.secure => failure.hint("check whether a WebSocket server listens there"),
        _ => failure
            .hint("the server may speak TLS (try wss://), or it may be waiting for a PROXY header"),
    }
}

/// The failure of a server whose response is not a 101.
async fn refused(mut answered: EndpointResponse) -> LegFailure {
    let body = first_line(&mut answered).await;
    let Some(answer) = answered.head() else {
        return LegFailure::new("the response is not valid HTTP");
    };
    let status = answer.status().map_or(0, |status| status.as_u16());
    let reason = answer.first("tidegate-reason").map(printable);
    let location = answer.first("location").map(printable);
    let mut short = status.to_string();
    let mut why = format!("the response was {status} instead of 101");
    if let Some(reason) = &reason {
        short.push_str(&format!(" {reason}"));
        why.push_str(&format!(" ({reason})"));
    }
    let findings = Findings::default().line(short);
    // The error quotes it; the row of the step does not repeat that.
    if let Some(body) = &body {
        why.push_str(&format!(": {body}"));
    }
    let findings = findings
        .fact("status", status)
        .fact("reason", reason.clone())
        .fact("body", body);
    let failure = LegFailure::new(why).findings(findings);
    match (reason, location, status) {
        (Some(reason), ..) => failure.hint(format!(
            "tidegate itself sent this response: docs/reasons.md explains `{reason}`, and \
             `tidegate explain URL` on its machine shows how it was decided"
        )),
        (None, Some(location), 300..=399) => failure.hint(format!(
            "browsers do not follow redirects of WebSockets; this one leads to {location}"
        )),
        (None, _, 401 | 403) => failure.hint(
            "the server may require `--origin` or `--header` (cookie, authorization)",
        ),
        (None, _, 200..=299) => {
            failure.hint("this path is served by plain HTTP, not by a WebSocket server")
        }
        _ => failure.hint(
            "a response without `tidegate-reason` comes from the endpoint, not from tidegate, unless \
             `server.reason_header` is off",
        ),
    }
}

/// The first line of the body that is not empty, if it arrives soon.
async fn first_line(answered: &mut EndpointResponse) -> Option<String> {
    let answer = answered.head()?;
    let chunked = answer.first("transfer-encoding").is_some();
    let length = answer.first("content-length");
    let length = length.and_then(|length| length.parse().ok());
    let length = length.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
    let reading = async {
        loop {
            let (body, ended) = body(answered.read_ahead(), length, chunked);
            if ended || line(&body, ended).is_some() {
                break;
            }
            match answered
                .connection
                .stream
                .read_buf(&mut answered.bytes)
                .await
            {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    let _ = timeout(BODY_TIMEOUT, reading).await;
    line(&body(answered.read_ahead(), length, chunked).0, true)
}

/// The body in `bytes`, up to `length`, and whether it is complete.
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
                // Skips the line break after the chunk.
                rest = behind.get(2..).unwrap_or_default();
            }
            // The last chunk, or something that is not one.
            Ok(Status::Complete(_)) | Err(_) => return (body, true),
            Ok(Status::Partial) => return (body, false),
        }
    }
    (body, true)
}

/// The first line that is not empty. An incomplete line counts only if nothing follows.
fn line(body: &[u8], ended: bool) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let whole = match text.rsplit_once('\n') {
        _ if ended => &text,
        Some((whole, _)) => whole,
        None => return None,
    };
    whole.lines().map(printable).find(|line| !line.is_empty())
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
            ("cookie", "use NAME:VALUE"),
            (": x", "not a valid header name"),
            ("x: a\r\ny: b", "not a valid header value"),
            ("Upgrade: h2c", "set by the handshake itself"),
            ("sec-websocket-key: x", "set by the handshake itself"),
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
