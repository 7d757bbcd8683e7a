//! The HTTP client that the protocol uses: ours. It keeps what the protocol's library drops, such as
//! `Retry-After`, and finds out which responses are not the protocol's at all.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error as ProtocolError, HttpClient, Problem};

use super::problem::{problem_text, problem_type};
use crate::https_client::HttpsClient;
use crate::protocol::retry_after;

/// What the last response that was an error said besides.
#[derive(Debug, Default)]
pub(super) struct ResponseNotes {
    retry_after: Mutex<Option<Duration>>,
}

impl ResponseNotes {
    /// How long to wait, as far as the authority says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        *self
            .retry_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_retry_after(&self, duration: Option<Duration>) {
        *self
            .retry_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = duration;
    }
}

/// A response that the protocol's library could make nothing of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnusableResponse {
    /// Status 429 without a description.
    #[error("status 429")]
    TooMany,
    /// The authority, or something in front of it, has failed.
    #[error("status {status}{detail}")]
    Failed {
        /// The status code.
        status: u16,
        /// What it says, if it says something.
        detail: String,
    },
    /// An error that is not described as the protocol asks.
    #[error("status {0} without a problem document")]
    Unexpected(u16),
}

/// The HTTP client for one order.
pub(super) struct OrderTransport {
    client: HttpsClient,
    notes: Arc<ResponseNotes>,
}

impl OrderTransport {
    pub(super) fn new(client: HttpsClient, notes: Arc<ResponseNotes>) -> Self {
        Self { client, notes }
    }
}

impl HttpClient for OrderTransport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, ProtocolError>> + Send>> {
        let (client, notes) = (self.client.clone(), Arc::clone(&self.notes));
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(never) => match never {},
            };
            let response = client.send(Request::from_parts(parts, body)).await;
            let mut response = response.map_err(|error| ProtocolError::Other(Box::new(error)))?;
            bound_retry_after(response.headers_mut());
            if response.status().is_client_error() || response.status().is_server_error() {
                notes.note_retry_after(retry_after::wanted(response.headers(), SystemTime::now()));
                checked(&response).map_err(|error| ProtocolError::Other(Box::new(error)))?;
            }
            Ok(response.map(Full::new).into())
        })
    }
}

/// Whether the library can deal with a response that is an error.
fn checked(response: &Response<Bytes>) -> Result<(), UnusableResponse> {
    let status = response.status();
    let problem = serde_json::from_slice::<Problem>(response.body()).ok();
    let problem = problem.filter(|problem| problem.r#type.is_some());
    match problem {
        // Let's Encrypt has its limits of all clients together in a 503.
        Some(problem) if problem_type(problem.r#type.as_deref()) == "rateLimited" => Ok(()),
        Some(problem) if status.is_server_error() => Err(UnusableResponse::Failed {
            status: status.as_u16(),
            detail: format!(": {}", problem_text(&problem)),
        }),
        Some(_) => Ok(()),
        None if status == StatusCode::TOO_MANY_REQUESTS => Err(UnusableResponse::TooMany),
        None if status.is_server_error() => Err(UnusableResponse::Failed {
            status: status.as_u16(),
            detail: String::new(),
        }),
        None => Err(UnusableResponse::Unexpected(status.as_u16())),
    }
}

/// The library adds `Retry-After` to the time, whatever it is: more than a day means a day.
fn bound_retry_after(headers: &mut HeaderMap) {
    const DAY: Duration = Duration::from_secs(86_400);
    let is_long = |wait: Duration| wait > DAY;
    if retry_after::wanted(headers, SystemTime::now()).is_some_and(is_long) {
        headers.insert(RETRY_AFTER, HeaderValue::from(DAY.as_secs()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_that_are_not_the_protocols_are_found() {
        let failed = |status, detail: &str| {
            Err(UnusableResponse::Failed {
                status,
                detail: detail.to_owned(),
            })
        };
        let limited = r#"{"type": "urn:ietf:params:acme:error:rateLimited"}"#;
        let internal = r#"{"type": "urn:ietf:params:acme:error:serverInternal", "detail": "oh"}"#;
        for (status, body, expected) in [
            (
                400,
                r#"{"type": "urn:ietf:params:acme:error:badNonce"}"#,
                Ok(()),
            ),
            (429, limited, Ok(())),
            (503, limited, Ok(())),
            (429, "slow down", Err(UnusableResponse::TooMany)),
            (500, internal, failed(500, ": oh (serverInternal)")),
            (503, "<html>", failed(503, "")),
            (404, "<html>", Err(UnusableResponse::Unexpected(404))),
            (404, "{}", Err(UnusableResponse::Unexpected(404))),
        ] {
            let response = Response::builder()
                .status(status)
                .body(Bytes::from(body))
                .unwrap();
            assert_eq!(checked(&response), expected, "{status} {body}");
        }
    }

    #[test]
    fn a_time_of_more_than_a_day_is_a_day() {
        for (written, bounded) in [("7", "7"), ("18446744073709551615", "86400")] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, written.parse().unwrap());
            bound_retry_after(&mut headers);
            assert_eq!(headers[RETRY_AFTER], bounded);
        }
    }
}
