//! Adds series to others: what a forgotten one has counted still belongs to sums.
//!
//! Every field is named, so that a new one is not left out.

use std::sync::PoisonError;

use super::{AuthSeries, EndpointSeries, RouteSeries};

impl AuthSeries {
    /// Adds what another one has counted, into which nothing counts any more.
    pub(in crate::observe) fn absorb(&self, other: &Self) {
        let Self {
            name: _,
            results,
            seconds,
        } = other;
        self.results.absorb(results);
        self.seconds.absorb(seconds);
    }
}

impl RouteSeries {
    /// Adds what another one has counted, into which nothing counts any more; its endpoints are not part of that.
    pub(in crate::observe) fn absorb(&self, other: &Self) {
        let Self {
            listener: _,
            route: _,
            handshakes,
            excused,
            handshake_seconds,
            rejections,
            ended,
            unframed,
            tunnel_seconds,
            ping_rtt,
            frames_from_client,
            frames_from_endpoint,
            statuses: _,
            endpoints: _,
        } = other;
        for (own, other) in self.handshakes.iter().zip(handshakes) {
            own.absorb(other);
        }
        self.excused.absorb(excused);
        self.handshake_seconds.absorb(handshake_seconds);
        self.rejections.absorb(rejections);
        self.ended.absorb(ended);
        self.unframed.absorb(unframed);
        self.tunnel_seconds.absorb(tunnel_seconds);
        for (own, other) in self.ping_rtt.iter().zip(ping_rtt) {
            own.absorb(other);
        }
        self.frames_from_client.absorb(frames_from_client);
        self.frames_from_endpoint.absorb(frames_from_endpoint);
        let mut statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
        for (status, count) in other.statuses() {
            match statuses.iter_mut().find(|entry| entry.0 == status) {
                Some(entry) => entry.1 += count,
                None => statuses.push((status, count)),
            }
        }
    }
}

impl EndpointSeries {
    /// Adds what another one has counted, into which nothing counts any more.
    pub(in crate::observe) fn absorb(&self, other: &Self) {
        let Self {
            route: _,
            upstream: _,
            endpoint: _,
            opened,
            handshake_micros,
            ended,
            closes_from_client,
            closes_from_endpoint,
            streams_open,
            streams_ended,
            traffic,
            connect_seconds,
            connect_failures,
            retried,
            retries_refused,
        } = other;
        self.opened.absorb(opened);
        self.handshake_micros.absorb(handshake_micros);
        self.ended.absorb(ended);
        self.closes_from_client.absorb(closes_from_client);
        self.closes_from_endpoint.absorb(closes_from_endpoint);
        self.streams_open.absorb(streams_open);
        self.streams_ended.absorb(streams_ended);
        self.traffic.absorb(traffic);
        self.connect_seconds.absorb(connect_seconds);
        self.connect_failures.absorb(connect_failures);
        self.retried.absorb(retried);
        self.retries_refused.absorb(retries_refused);
    }
}
