//! What a collector's response means for the spans of a request (OTLP specification, "OTLP/HTTP Response").

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Response, StatusCode};

use super::otlp::{self, PartialSuccess};
use crate::https_client::HttpsClientError;
use crate::protocol::retry_after;

/// The longest time for which a collector is not asked again because it says so.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60 * 60);

/// What a request with spans came to.
#[derive(Debug, PartialEq)]
pub(super) enum Delivery {
    /// The collector has them, but for those that it has rejected.
    Accepted(Option<PartialSuccess>),
    /// It may accept them later; not before this time, if it has named one.
    Later(Duration),
    /// It may accept fewer at a time.
    TooLarge,
    /// It never will accept them.
    Refused,
}

impl Delivery {
    /// The meaning of a response, or of the lack of one, at the time `now`.
    pub(super) fn of(result: &Result<Response<Bytes>, HttpsClientError>, now: SystemTime) -> Self {
        let response = match result {
            Ok(response) => response,
            // There was a response, and the collector may have accepted the spans.
            Err(HttpsClientError::TooLarge { .. }) => return Self::Refused,
            Err(_) => return Self::Later(Duration::ZERO),
        };
        match response.status() {
            status if status.is_success() => Self::Accepted(otlp::partial_success(response.body())),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let wait = retry_after::wanted(response.headers(), now);
                Self::Later(wait.unwrap_or_default().min(MAX_RETRY_AFTER))
            }
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            _ => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::RETRY_AFTER;
    use std::io;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[track_caller]
    fn check(status: u16, wait: Option<&str>, expected: &Delivery) {
        let mut response = Response::builder().status(status);
        if let Some(wait) = wait {
            response = response.header(RETRY_AFTER, wait);
        }
        let found = Delivery::of(&Ok(response.body(Bytes::new()).unwrap()), NOW);
        assert_eq!(found, *expected, "{status} {wait:?}");
    }

    #[test]
    fn the_specification_says_which_responses_are_final() {
        let later = |seconds| Delivery::Later(Duration::from_secs(seconds));
        check(200, None, &Delivery::Accepted(None));
        for status in [429, 502, 503, 504] {
            check(status, None, &later(0));
            check(status, Some("7"), &later(7));
            check(status, Some("Thu, 01 Jan 1970 00:01:00 GMT"), &later(60));
            check(status, Some("soon"), &later(0));
            check(status, Some("18446744073709551615"), &later(3600));
        }
        check(413, None, &Delivery::TooLarge);
        for status in [301, 400, 401, 404, 408, 500, 501, 505] {
            check(status, Some("7"), &Delivery::Refused);
        }
    }

    #[test]
    fn without_a_response_the_spans_may_be_accepted_later() {
        let host = || "collector".into();
        let error = io::ErrorKind::ConnectionRefused.into();
        let refused = Err(HttpsClientError::Connect {
            host: host(),
            error,
        });
        let later = Delivery::Later(Duration::ZERO);
        assert_eq!(Delivery::of(&refused, NOW), later);
        let too_large = Err(HttpsClientError::TooLarge {
            host: host(),
            limit: 1,
        });
        assert_eq!(Delivery::of(&too_large, NOW), Delivery::Refused);
    }
}
