//! Sends finished spans to a collector, in batches, on the control runtime.
//!
//! A collector that is away costs nothing but spans: the queue has a bound, and what comes beyond it is dropped and
//! counted. Nothing that serves clients waits for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::otlp;
use super::queue::{MAX_BATCH, SpanQueue};
use super::span::{Attributes, FinishedSpan};
use crate::config::model::TracesConfig;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::https_client::{HttpsClient, HttpsClientError, backoff};
use crate::quota::failure_reports::{FailureReports, warn_once_a_minute};
use crate::upstream::connect::Connector;

/// How long a first span waits for others, at most.
const BATCH_INTERVAL: Duration = Duration::from_secs(2);

/// How long the spans that are left at the end of the process may take.
const FINISH_TIMEOUT: Duration = Duration::from_secs(2);

/// The name of the collector among the services that tidegate asks.
const SERVICE: &str = "traces";

/// Sends spans as the configuration says.
#[derive(Debug)]
pub struct SpanExporter {
    control: Handle,
    connector: Connector,
    services: Arc<ServiceTraffic>,
    queue: Arc<SpanQueue>,
    running: Option<RunningExporter>,
}

#[derive(Debug)]
struct RunningExporter {
    settings: Arc<TracesConfig>,
    /// Dropping it ends the task, which sends what waits before, unless it says that another one does.
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SpanExporter {
    /// Sends nothing yet; its task will run on `control`. Requests to the collector are counted in `services`.
    pub fn new(
        control: Handle,
        connector: Connector,
        services: &Arc<ServiceTraffic>,
        queue: &Arc<SpanQueue>,
    ) -> Self {
        Self {
            control,
            connector,
            services: Arc::clone(services),
            queue: Arc::clone(queue),
            running: None,
        }
    }

    /// From now on, spans go where `wanted` says.
    pub fn apply(&mut self, wanted: Option<&Arc<TracesConfig>>) {
        if self.running.as_ref().map(|it| &it.settings) == wanted {
            return;
        }
        if let Some(replaced) = self.running.take() {
            // What waits is for the new one: the old one may have a wrong address.
            replaced.stop.send_replace(wanted.is_some());
        }
        self.queue.set_open(wanted.is_some());
        self.running = wanted.map(|settings| {
            let (stop, stopped) = watch::channel(false);
            let task = BatchSender {
                settings: Arc::clone(settings),
                connector: self.connector.clone(),
                services: Arc::clone(&self.services),
                queue: Arc::clone(&self.queue),
                resource: resource(settings),
                reports: FailureReports::default(),
            };
            RunningExporter {
                settings: Arc::clone(settings),
                stop,
                task: self.control.spawn(task.run(stopped)),
            }
        });
    }

    /// Sends the spans that wait, but not for long.
    pub async fn finish(&mut self) {
        if let Some(RunningExporter { stop, task, .. }) = self.running.take() {
            self.queue.set_open(false);
            drop(stop);
            // What is not sent by then is lost, as with a collector that is away.
            let _ = timeout(FINISH_TIMEOUT, task).await;
        }
    }
}

/// What describes this process.
fn resource(settings: &TracesConfig) -> Attributes {
    let mut resource = Attributes::default();
    resource.text("service.name", &settings.service_name);
    resource.text("service.version", env!("CARGO_PKG_VERSION"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    resource.text_if("host.name", host.ok().as_deref().map(str::trim));
    resource.number("process.pid", std::process::id().into());
    resource.text("telemetry.sdk.name", "tidegate");
    resource.text("telemetry.sdk.language", "rust");
    resource.text("telemetry.sdk.version", env!("CARGO_PKG_VERSION"));
    resource
}

/// What a batch of spans came to.
enum Delivery {
    /// The collector has it.
    Accepted,
    /// It may be accepted later.
    Later,
    /// It never will be.
    Refused,
}

/// Sends batches until it is stopped.
struct BatchSender {
    settings: Arc<TracesConfig>,
    connector: Connector,
    services: Arc<ServiceTraffic>,
    queue: Arc<SpanQueue>,
    resource: Attributes,
    reports: FailureReports,
}

impl BatchSender {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        let mut batch = Vec::new();
        while !is_stopped(&stop) {
            if batch.is_empty() {
                self.wait_for_batch(&mut stop).await;
                batch = self.queue.take();
            }
            // A request that is under way is not broken off: the spans would arrive twice.
            match self.deliver(&batch).await {
                Delivery::Later => {
                    failures += 1;
                    let pause = backoff(failures).mul_f64(1.0 - fastrand::f64() / 2.0);
                    let _ = timeout(pause, stopped(&mut stop)).await;
                }
                Delivery::Accepted | Delivery::Refused => (failures, batch) = (0, Vec::new()),
            }
        }
        if *stop.borrow() {
            self.queue.put_back(batch);
        } else {
            self.deliver_rest(batch).await;
        }
    }

    /// Sends everything that waits, once.
    async fn deliver_rest(&self, mut batch: Vec<FinishedSpan>) {
        loop {
            if batch.is_empty() {
                batch = self.queue.take();
            }
            if batch.is_empty() {
                return;
            }
            if let Delivery::Later = self.deliver(&batch).await {
                self.queue.count_dropped(batch.len());
            }
            batch.clear();
        }
    }

    /// Waits for spans; then, for a while, for more of them.
    async fn wait_for_batch(&self, stop: &mut watch::Receiver<bool>) {
        while self.queue.waiting() == 0 {
            tokio::select! {
                () = self.queue.arrived() => {}
                () = stopped(stop) => return,
            }
        }
        let mut interval = std::pin::pin!(sleep(BATCH_INTERVAL));
        while self.queue.waiting() < MAX_BATCH {
            tokio::select! {
                () = self.queue.arrived() => {}
                () = &mut interval => return,
                () = stopped(stop) => return,
            }
        }
    }

    async fn deliver(&self, batch: &[FinishedSpan]) -> Delivery {
        if batch.is_empty() {
            return Delivery::Accepted;
        }
        let body = Bytes::from(otlp::request(&self.resource, batch));
        let response = match self.send(body).await {
            Ok(response) => response,
            // The client has reported it, but for what is wrong before it asks.
            Err(error) => {
                if let HttpsClientError::Settings(_) | HttpsClientError::Url(_) = &error {
                    self.warn(&error.to_string());
                }
                return Delivery::Later;
            }
        };
        let status = response.status();
        if status.is_success() {
            self.count_accepted(batch.len(), response.body());
            return Delivery::Accepted;
        }
        if !status.is_server_error() {
            self.warn(&format!("the collector responds with {status}"));
        }
        if is_passing(status) {
            return Delivery::Later;
        }
        self.queue
            .rejected
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        Delivery::Refused
    }

    fn count_accepted(&self, spans: usize, response: &[u8]) {
        let rejected = otlp::rejected(response);
        let (rejected, why) = rejected.map_or((0, None), |(count, why)| (count, Some(why)));
        let rejected = rejected.min(spans as u64);
        self.queue.rejected.fetch_add(rejected, Ordering::Relaxed);
        let exported = spans as u64 - rejected;
        self.queue.exported.fetch_add(exported, Ordering::Relaxed);
        if let Some(why) = why {
            self.warn(&format!("the collector has rejected spans: {why}"));
        }
    }

    fn warn(&self, error: &str) {
        warn_once_a_minute!(self.reports, error, "spans not accepted", error);
    }

    async fn send(&self, body: Bytes) -> Result<Response<Bytes>, HttpsClientError> {
        let TracesConfig { url, roots, .. } = &*self.settings;
        let (connector, counters) = (self.connector.clone(), self.services.of(SERVICE));
        let client = match roots {
            // A new one each time: the CA certificates of the system may have changed.
            Some(roots) => HttpsClient::new(connector, roots, counters)?,
            None => HttpsClient::without_tls(connector, counters),
        };
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = url.clone();
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        client.send(request).await
    }
}

/// Whether the same request may succeed later (OTLP specification, "Failures").
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// Waits until the sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    while stop.changed().await.is_ok() {}
}

fn is_stopped(stop: &watch::Receiver<bool>) -> bool {
    stop.has_changed().is_err()
}
