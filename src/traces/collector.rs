//! Requests to the collector.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};

use crate::config::model::TracesConfig;
use crate::https_client::counters::ClientCounters;
use crate::https_client::{HttpsClient, HttpsClientError};
use crate::upstream::connect::Connector;

/// What takes the spans of a request.
pub(super) trait SpanCollector: Send {
    /// Sends a request with spans, and waits for the response.
    fn send(
        &mut self,
        body: Bytes,
    ) -> impl Future<Output = Result<Response<Bytes>, HttpsClientError>> + Send;
}

/// The collector that the configuration names.
pub(super) struct HttpCollector {
    settings: Arc<TracesConfig>,
    connector: Connector,
    counters: Arc<ClientCounters>,
    /// Made with the first request.
    client: Option<HttpsClient>,
}

impl HttpCollector {
    /// Counts its requests in `counters`.
    pub(super) fn new(
        settings: &Arc<TracesConfig>,
        connector: Connector,
        counters: Arc<ClientCounters>,
    ) -> Self {
        Self {
            settings: Arc::clone(settings),
            connector,
            counters,
            client: None,
        }
    }

    async fn client(&mut self) -> Result<HttpsClient, HttpsClientError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let (connector, counters) = (self.connector.clone(), Arc::clone(&self.counters));
        let made = match self.settings.roots.clone() {
            None => HttpsClient::without_tls(connector, counters),
            Some(roots) => {
                // It reads the CA certificates of the system.
                let making = move || HttpsClient::new(connector, &roots, counters);
                match tokio::task::spawn_blocking(making).await {
                    Ok(made) => made?,
                    Err(panic) => std::panic::resume_unwind(panic.into_panic()),
                }
            }
        };
        self.client = Some(made.clone());
        Ok(made)
    }

    fn request(&self, body: Bytes) -> Request<Bytes> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.settings.url.clone();
        let fields = request.headers_mut();
        fields.extend(self.settings.headers.iter().cloned());
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }
}

impl SpanCollector for HttpCollector {
    async fn send(&mut self, body: Bytes) -> Result<Response<Bytes>, HttpsClientError> {
        let result = self.client().await?.send(self.request(body)).await;
        if let Err(HttpsClientError::Tls { .. }) = &result {
            // The CA certificates of the system may have changed since they were read.
            self.client = None;
        }
        result
    }
}
