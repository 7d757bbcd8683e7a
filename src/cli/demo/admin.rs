//! The demo as an operator: requests to the admin interface of its tidegate.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate::admin::api::listeners::ListenerInfo;
use tidegate::admin::api::operation::Operation;
use tidegate::admin::error::ErrorResponse;
use tidegate::admin::exchange::exchange;
use tokio::net::UnixStream;

/// The pause between two attempts to reach a tidegate that starts.
const START_PAUSE: Duration = Duration::from_millis(20);

/// Reaches the admin interface over its unix socket.
#[derive(Debug, Clone)]
pub(super) struct DemoAdmin {
    socket: PathBuf,
}

/// Why an operation failed, in one sentence.
#[derive(Debug)]
pub(super) struct OperationFailure(String);

impl fmt::Display for OperationFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl DemoAdmin {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Waits until tidegate serves; returns the address of the page's listener.
    pub(super) async fn page_address(&self) -> String {
        loop {
            let listeners = self.ask::<Vec<ListenerInfo>>(Operation::Listeners, "", None);
            let listeners = listeners.await.unwrap_or_default();
            let page = listeners.iter().find(|listener| listener.tls);
            if let Some(address) = page.and_then(|listener| listener.addresses.first()) {
                return address.clone();
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// Performs an operation.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        operation: Operation,
        query: &str,
        body: Option<&Value>,
    ) -> Result<T, OperationFailure> {
        let (mark, path) = (if query.is_empty() { "" } else { "?" }, operation.path());
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(operation.method())
            .uri(format!("{path}{mark}{query}"))
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(silent)?;
        let socket = UnixStream::connect(&self.socket).await.map_err(silent)?;
        let (status, body) = exchange(socket, request).await.map_err(silent)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(silent);
        }
        let refusal = serde_json::from_slice::<ErrorResponse>(&body).map_err(silent)?;
        let lines = std::iter::once(refusal.error).chain(refusal.details);
        Err(OperationFailure(lines.collect::<Vec<_>>().join("; ")))
    }
}

fn silent(error: impl fmt::Display) -> OperationFailure {
    OperationFailure(format!("no response from tidegate: {error}"))
}
