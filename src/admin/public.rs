//! What `admin.metrics_bind` serves without a token: metrics and health, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use super::http::{
    AdminActivity, AdminPeer, AdminResponse, AdminService, method_not_allowed, response, text,
};
use super::view::View;
use crate::displace::rebalance::excess::Excess;
use crate::observe::exposition::Format;
use crate::observe::metrics::{self, MetricSources};

/// How long a worker may take to respond before the process counts as unhealthy.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves metrics and health.
#[derive(Debug)]
pub struct Public(pub Arc<View>);

impl AdminService for Public {
    const MAY_BE_CUT: bool = true;

    async fn respond(
        &self,
        request: Request<Incoming>,
        _: AdminPeer,
        _: &AdminActivity,
    ) -> AdminResponse {
        let view = &self.0;
        let path = request.uri().path();
        if !matches!(path, "/metrics" | "/healthz" | "/readyz") {
            let known = "Not found: this address serves /metrics, /healthz and /readyz.\n";
            return text(StatusCode::NOT_FOUND, known);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return method_not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => {
                let accept = request.headers().get_all(ACCEPT).iter();
                let accept: Vec<&str> = accept.filter_map(|line| line.to_str().ok()).collect();
                view.metrics(Format::accepted(&accept.join(","))).await
            }
            "/readyz" => {
                let readiness = view.shared.process.readiness();
                text(readiness.status(), readiness.text())
            }
            _ => view.health().await,
        }
    }
}

impl View {
    async fn metrics(&self, format: Format) -> AdminResponse {
        let _one = self.with_current_traffic().await;
        let counters = self.workers.counters();
        let older = self.generations.all();
        let older: Vec<(u64, u64)> = older.iter().map(|it| it.open()).collect();
        let snapshot = self.shared.snapshot.load();
        let upstreams = snapshot.upstreams().iter();
        let excess: Vec<_> = upstreams
            .filter_map(|upstream| {
                let excess = Excess::of(upstream, 0)?;
                Some((Arc::clone(&upstream.name), excess.total()))
            })
            .collect();
        let listening = self.listening.load();
        let drained = listening.iter();
        let drained: Vec<_> = drained
            .map(|it| (Arc::clone(&it.name), it.is_drained))
            .collect();
        let body = metrics::write(
            MetricSources {
                workers: &counters,
                snapshot: &snapshot,
                connector: &self.shared.connector,
                discovery: &self.shared.discovery,
                admission: &self.admission,
                memory: self.shared.memory.figures(),
                process: &self.shared.process,
                log_dropped: self.log_dropped.get(),
                access_log_dropped: self.shared.access_log.dropped(),
                closing: &self.jobs.left(),
                older: &older,
                excess: &excess,
                drained: &drained,
                services: &self.shared.services,
                fleet: &self.shared.fleet,
                spans: &self.shared.spans,
                orders: &self.acme_orders,
                probes: &self.shared.probes,
            },
            format,
        );
        response(StatusCode::OK, format.content_type(), body)
    }

    /// Whether every worker responds.
    async fn health(&self) -> AdminResponse {
        if self.workers.respond(HEALTH_TIMEOUT).await {
            text(StatusCode::OK, "ok\n")
        } else {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                "a worker does not respond\n",
            )
        }
    }
}
