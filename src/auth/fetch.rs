//! One request to an issuer for its keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, HeaderValue, Request, StatusCode};

use super::issuer_keys::{IssuerKeys, KeyLocation};
use crate::config::key_set::{self, KeySetError, PublishedKey};
use crate::https_client::counters::ClientCounters;
use crate::https_client::{HttpsClient, HttpsClientError};
use crate::protocol::token::tokens;
use crate::upstream::connect::Connector;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFetchError {
    /// There is no response.
    #[error(transparent)]
    Client(#[from] HttpsClientError),
    /// The URL is not valid.
    #[error("the URL is not valid")]
    Url,
    /// The response is not a success.
    #[error("the response has status {0}")]
    Status(StatusCode),
    /// The response is not a key set that can be used.
    #[error(transparent)]
    Set(#[from] KeySetError),
}

/// Keys as they were fetched.
#[derive(Debug)]
pub(super) struct FetchedKeys {
    pub(super) keys: Vec<PublishedKey>,
    /// How long they may be used without asking again, as the issuer says.
    pub(super) max_age: Option<Duration>,
}

/// Asks an issuer for its keys.
pub(super) trait KeyFetch: Send {
    fn fetch(&self) -> impl Future<Output = Result<FetchedKeys, KeyFetchError>> + Send;
}

/// Asks by HTTPS.
#[derive(Debug)]
pub(super) struct UrlFetch {
    location: KeyLocation,
    connector: Connector,
    requests: Arc<ClientCounters>,
}

impl UrlFetch {
    pub(super) fn new(
        keys: &IssuerKeys,
        connector: Connector,
        requests: Arc<ClientCounters>,
    ) -> Self {
        Self {
            location: keys.location.clone(),
            connector,
            requests,
        }
    }
}

impl KeyFetch for UrlFetch {
    async fn fetch(&self) -> Result<FetchedKeys, KeyFetchError> {
        // A new one each time: it is asked seldom, and the CA certificates of the system may have changed.
        let client = HttpsClient::new(
            self.connector.clone(),
            &self.location.roots,
            Arc::clone(&self.requests),
        )?;
        let request = Request::get(&*self.location.url)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .body(Bytes::new());
        let response = client
            .send(request.map_err(|_| KeyFetchError::Url)?)
            .await?;
        if response.status() != StatusCode::OK {
            return Err(KeyFetchError::Status(response.status()));
        }
        Ok(FetchedKeys {
            keys: key_set::parse(response.body())?,
            max_age: max_age(response.headers()),
        })
    }
}

/// How long a response may be used (RFC 9111 section 5.2.2).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut directives = tokens(headers, CACHE_CONTROL);
    directives.find_map(|directive| {
        let (name, value) = directive.split_at_checked("max-age=".len())?;
        if !name.eq_ignore_ascii_case(b"max-age=") {
            return None;
        }
        let seconds = str::from_utf8(value).ok()?.trim_matches('"').parse().ok()?;
        Some(Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_issuer_says_how_long_its_keys_may_be_used() {
        for (value, seconds) in [
            ("max-age=600", Some(600)),
            ("public, MAX-AGE=600, must-revalidate", Some(600)),
            ("max-age=\"60\"", Some(60)),
            ("no-store", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999", None),
            ("s-maxage=600", None),
            ("", None),
        ] {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(CACHE_CONTROL, value.clone())]);
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(max_age(&headers), expected, "{value:?}");
        }
    }
}
