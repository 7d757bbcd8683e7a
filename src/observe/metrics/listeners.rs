//! Metrics of listeners: connections, and what became of them before there was a request.

use std::sync::Arc;

use super::gathered::{Gathered, open, sum};
use crate::observe::exposition::{Exposition, Kind};
use crate::observe::labels::{TLS, Turned};

pub(super) fn of_drained(metrics: &mut Exposition, drained: &[(Arc<str>, bool)]) {
    let help = "Whether an operator has taken a listener out: then it listens nowhere.";
    metrics.family("tidegate_listener_drained", Kind::Gauge, help);
    for (listener, is_drained) in drained {
        metrics.sample(&[("listener", listener)], u8::from(*is_drained));
    }
}

pub(super) fn of_listeners(metrics: &mut Exposition, gathered: &Gathered) {
    let listeners = gathered.by_listener();
    let help = "Connections of clients, tunnels included.";
    metrics.family("tidegate_connections_open", Kind::Gauge, help);
    for ([listener], series) in &listeners {
        let open = open(series, |it| it.connections.get(), |it| it.closed.get());
        metrics.sample(&[("listener", listener)], open);
    }
    let help = "Connections that clients have opened.";
    metrics.family("tidegate_connections_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.connections.get());
        metrics.sample(&[("listener", listener)], total);
    }
    let help = "Connections that were closed before there was a request, by reason.";
    metrics.family("tidegate_connections_refused_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        for turned in Turned::ALL {
            let total = sum(series, |it| it.turned.at(*turned as usize).get());
            let labels = [("listener", *listener), ("reason", turned.token())];
            metrics.sample(&labels, total);
        }
    }
    let help = "Connections closed because the client did not go on, to send or to read, in time.";
    metrics.family("tidegate_connections_expired_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
        let total = sum(series, |it| it.expired.get());
        metrics.sample(&[("listener", listener)], total);
    }
    let help = "TLS handshakes of clients that succeeded.";
    metrics.family("tidegate_tls_handshakes_total", Kind::Counter, help);
    for ([listener], series) in &listeners {
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
