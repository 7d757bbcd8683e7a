//! Sends finished spans to a collector, in batches, on the control runtime.
//!
//! A collector that is away costs nothing but spans: the queue has a bound, and what comes beyond it is dropped and
//! counted. Nothing that serves clients waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::batch_sender::BatchSender;
use super::collector::HttpCollector;
use super::queue::SpanQueue;
use super::span::Attributes;
use crate::config::model::TracesConfig;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::upstream::connect::Connector;

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
            let counters = self.services.of(SERVICE);
            let collector = HttpCollector::new(settings, self.connector.clone(), counters);
            let sender = BatchSender::new(collector, &self.queue, resource(settings));
            RunningExporter {
                settings: Arc::clone(settings),
                stop,
                task: self.control.spawn(sender.run(stopped)),
            }
        });
    }

    /// Sends the spans that wait, but not for long, and not to a collector that has failed last. Spans that are left
    /// are lost, as they are if this is not waited for.
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
