//! Metrics of tunnels and streams: open ones, lifetimes, reasons of their ends, traffic.

use super::gathered::{Gathered, Groups, labelled, open, sum};
use crate::observe::exposition::{Exposition, MetricKind};
use crate::observe::histogram::{HistogramSum, LATENCY_SECONDS, LIFETIME_SECONDS};
use crate::observe::labels::{CLOSE_CODES, HandshakeOutcome};
use crate::observe::series::{EndpointSeries, RouteSeries};
use crate::observe::traffic::TrafficKind;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::opcode::Opcode;
use crate::streams::ended::StreamEnded;
use crate::tunnel::ended::Ended;
use crate::tunnel::side::Side;

/// The values of the label `direction`.
const DIRECTIONS: [(&str, Side); 2] = [
    ("from_client", Side::Client),
    ("from_endpoint", Side::Endpoint),
];

pub(super) fn write_tunnels(metrics: &mut Exposition, gathered: &Gathered) {
    let help = "Live tunnels.";
    metrics.family("tidegate_tunnels_open", MetricKind::Gauge, help);
    let opened = |it: &RouteSeries| {
        let opened = |protocol| it.handshakes(HandshakeOutcome::Opened, protocol).get();
        ClientProtocol::ALL.into_iter().map(opened).sum::<u64>()
    };
    for ([listener, route], series) in &gathered.by_listener_and_route() {
        if !route.is_empty() {
            let open = open(series, opened, |it| it.ended.get());
            metrics.sample(&[("listener", listener), ("route", route)], open);
        }
    }
    let help = "Open streams: plain requests that have lasted longer than three seconds.";
    metrics.family("tidegate_streams_open", MetricKind::Gauge, help);
    for ([listener, route], series) in &gathered.by_endpoints_route() {
        let open = sum(series, |it| it.streams_open.get());
        metrics.sample(&[("listener", listener), ("route", route)], open);
    }
    let routes = gathered.by_route();
    let help = "Lifetime of ended tunnels.";
    metrics.family("tidegate_tunnel_seconds", MetricKind::Histogram, help);
    for ([route], series) in &routes {
        let histograms = series.iter().map(|it| &it.tunnel_seconds);
        metrics.histogram(
            &[("route", route)],
            &HistogramSum::of(&LIFETIME_SECONDS, histograms),
        );
    }
    let help = "Time that clients and endpoints took to answer tidegate's Pings.";
    metrics.family("tidegate_ping_rtt_seconds", MetricKind::Histogram, help);
    for ([route], series) in &routes {
        for side in [Side::Client, Side::Endpoint] {
            let histograms = series.iter().map(|it| it.ping_rtt(side));
            let labels = [("route", *route), ("side", side.name())];
            metrics.histogram(&labels, &HistogramSum::of(&LATENCY_SECONDS, histograms));
        }
    }
    let help = "Ended tunnels that carried bytes which were not valid WebSocket frames.";
    metrics.family("tidegate_tunnels_unframed_total", MetricKind::Counter, help);
    for ([route], series) in &routes {
        let total = sum(series, |it| it.unframed.get());
        metrics.sample(&[("route", route)], total);
    }
}

fn write_closes(metrics: &mut Exposition, endpoints: &Groups<'_, EndpointSeries, 3>) {
    let help = "First Close frame of each ended tunnel, by code and sender.";
    metrics.family("tidegate_close_codes_total", MetricKind::Counter, help);
    for (endpoint, series) in endpoints {
        let [route, upstream, endpoint] = labelled(["route", "upstream", "endpoint"], *endpoint);
        for (position, code) in CLOSE_CODES.iter().enumerate() {
            for side in [Side::Client, Side::Endpoint] {
                let total = sum(series, |it| it.closes_from(side).at(position).get());
                if total > 0 {
                    let (code, from) = (("code", *code), ("from", side.name()));
                    metrics.sample(&[route, upstream, endpoint, code, from], total);
                }
            }
        }
    }
}

fn write_frames(metrics: &mut Exposition, routes: &Groups<'_, RouteSeries, 1>) {
    let help = "Frames relayed through tunnels, by opcode.";
    metrics.family("tidegate_tunnel_frames_total", MetricKind::Counter, help);
    for ([route], series) in routes {
        for (direction, side) in DIRECTIONS {
            for opcode in Opcode::ALL {
                let total = sum(series, |it| it.frames_from(side).at(opcode as usize).get());
                let labels = [
                    ("route", *route),
                    ("direction", direction),
                    ("opcode", opcode.token()),
                ];
                metrics.sample(&labels, total);
            }
        }
    }
}

fn write_abnormal(metrics: &mut Exposition, endpoints: &Groups<'_, EndpointSeries, 3>) {
    let help = "Ended tunnels that one side broke: no Close frame, no Pong, or nothing read.";
    metrics.family("tidegate_tunnels_abnormal_total", MetricKind::Counter, help);
    for (endpoint, series) in endpoints {
        let [route, upstream, endpoint] = labelled(["route", "upstream", "endpoint"], *endpoint);
        for side in [Side::Client, Side::Endpoint] {
            let broken = Ended::ALL
                .into_iter()
                .filter(|it| it.broken_by() == Some(side));
            let total: u64 = broken
                .map(|ended| sum(series, |it| it.ended.at(ended as usize).get()))
                .sum();
            metrics.sample(&[route, upstream, endpoint, ("side", side.name())], total);
        }
    }
}

pub(super) fn write_traffic(metrics: &mut Exposition, gathered: &Gathered) {
    let endpoints = gathered.by_route_and_endpoint();
    let labels = |endpoint| labelled(["route", "upstream", "endpoint"], endpoint);
    let help = "Ended tunnels, by reason.";
    metrics.family("tidegate_tunnels_ended_total", MetricKind::Counter, help);
    for (endpoint, series) in &endpoints {
        let [route, upstream, endpoint] = labels(*endpoint);
        for ended in Ended::ALL {
            let total = sum(series, |it| it.ended.at(ended as usize).get());
            if total > 0 {
                metrics.sample(
                    &[route, upstream, endpoint, ("reason", ended.token())],
                    total,
                );
            }
        }
    }
    let help = "Ended streams, by reason.";
    metrics.family("tidegate_streams_ended_total", MetricKind::Counter, help);
    for (endpoint, series) in &endpoints {
        let [route, upstream, endpoint] = labels(*endpoint);
        for ended in StreamEnded::all() {
            let total = sum(series, |it| it.streams_ended.at(ended.position()).get());
            if total > 0 {
                let reason = ("reason", ended.token());
                metrics.sample(&[route, upstream, endpoint, reason], total);
            }
        }
    }
    write_closes(metrics, &endpoints);
    write_abnormal(metrics, &endpoints);
    write_frames(metrics, &gathered.by_route());
    let mut write = |name, help, of: fn(Side) -> TrafficKind| {
        metrics.family(name, MetricKind::Counter, help);
        for (endpoint, series) in &endpoints {
            let [route, upstream, endpoint] = labels(*endpoint);
            for (direction, side) in DIRECTIONS {
                let total = sum(series, |it| it.traffic.published(of(side)));
                metrics.sample(
                    &[route, upstream, endpoint, ("direction", direction)],
                    total,
                );
            }
        }
    };
    let help = "Bytes relayed through tunnels, open ones included.";
    write("tidegate_tunnel_bytes_total", help, TrafficKind::Bytes);
    let help = "Messages relayed through tunnels, open ones included.";
    write(
        "tidegate_tunnel_messages_total",
        help,
        TrafficKind::Messages,
    );
}
