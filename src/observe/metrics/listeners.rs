//! Metrics of listeners: client connections and TLS handshakes.

use std::sync::Arc;

use super::gathered::{Gathered, Groups, open, sum};
use crate::net::tls_failure::TlsFailure;
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::labels::{Http2Reset, RefusedConnection, TLS};
use crate::observe::series::ListenerSeries;
use crate::protocol::client_protocol::ClientProtocol;

pub(super) fn write_drained(metrics: &mut Exposition, drained: &[(Arc<str>, bool)]) {
    let help = "1 while a listener is drained by an operator and accepts nothing.";
    metrics.family("tidegate_listener_drained", MetricKind::Gauge, help);
    for (listener, is_drained) in drained {
        metrics.sample(&[("listener", listener)], u8::from(*is_drained));
    }
}

pub(super) fn write_listeners(metrics: &mut Exposition, gathered: &Gathered) {
    let listeners = gathered.by_listener();
    let help = "Open client connections, tunnels included.";
    metrics.family("tidegate_connections_open", MetricKind::Gauge, help);
    for ([listener], series) in &listeners {
        let all = open(series, |it| it.connections.get(), |it| it.closed.get());
        let http2 = |it: &ListenerSeries| it.http2_connections.get();
        let open_http2 = open(series, http2, |it| it.http2_closed.get());
        let labels =
            |protocol: ClientProtocol| [("listener", *listener), ("protocol", protocol.token())];
        metrics.sample(
            &labels(ClientProtocol::Http1),
            all.saturating_sub(open_http2),
        );
        // Most listeners do not offer it.
        if sum(series, http2) > 0 {
            metrics.sample(&labels(ClientProtocol::Http2), open_http2);
        }
    }
    let help = "Client connections accepted.";
    metrics.family("tidegate_connections_total", MetricKind::Counter, help);
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.connections.get());
        metrics.sample(&[("listener", listener)], total);
    }
    let help = "Client connections closed before a request, by reason.";
    metrics.family(
        "tidegate_connections_refused_total",
        MetricKind::Counter,
        help,
    );
    for ([listener], series) in &listeners {
        for reason in RefusedConnection::ALL {
            let total = sum(series, |it| it.refused.at(*reason as usize).get());
            let labels = [("listener", *listener), ("reason", reason.token())];
            metrics.sample(&labels, total);
        }
    }
    let help = "Client connections closed because the client neither sent nor read in time.";
    metrics.family(
        "tidegate_connections_expired_total",
        MetricKind::Counter,
        help,
    );
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.expired.get());
        metrics.sample(&[("listener", listener)], total);
    }
    write_tls(metrics, &listeners);
    let help = "HTTP/2 connections that tidegate ended, and streams that it reset, by reason.";
    metrics.family("tidegate_h2_resets_total", MetricKind::Counter, help);
    for ([listener], series) in &listeners {
        for reason in Http2Reset::ALL {
            let total = sum(series, |it| it.http2_resets.at(*reason as usize).get());
            if total > 0 {
                let labels = [("listener", *listener), ("reason", reason.token())];
                metrics.sample(&labels, total);
            }
        }
    }
}

fn write_tls(metrics: &mut Exposition, listeners: &Groups<'_, ListenerSeries, 1>) {
    let help = "Failed TLS handshakes of clients, by reason.";
    metrics.family("tidegate_tls_failures_total", MetricKind::Counter, help);
    for ([listener], series) in listeners {
        for failure in TlsFailure::ALL {
            let total = sum(series, |it| it.tls_failures.at(failure as usize).get());
            if total > 0 {
                let labels = [("listener", *listener), ("reason", failure.token())];
                metrics.sample(&labels, total);
            }
        }
    }
    let help = "Successful TLS handshakes of clients.";
    metrics.family("tidegate_tls_handshakes_total", MetricKind::Counter, help);
    for ([listener], series) in listeners {
        for (position, (version, resumed)) in TLS.iter().enumerate() {
            let total = sum(series, |it| it.tls.at(position).get());
            let resumed = if *resumed { "true" } else { "false" };
            if total > 0 {
                metrics.sample(
                    &[
                        ("listener", listener),
                        ("version", version),
                        ("resumed", resumed),
                    ],
                    total,
                );
            }
        }
    }
}
