//! The bytes and messages that tunnels carried, open tunnels included.

use super::counter::CounterArray;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;

/// What is counted of the traffic of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficKind {
    /// Bytes that came from a side.
    Bytes(Side),
    /// Messages that began to come from a side.
    Messages(Side),
}

impl TrafficKind {
    const ALL: [Self; 4] = [
        Self::Bytes(Side::Client),
        Self::Bytes(Side::Endpoint),
        Self::Messages(Side::Client),
        Self::Messages(Side::Endpoint),
    ];

    fn of(self, meter: &Meter) -> u64 {
        match self {
            Self::Bytes(side) => meter.bytes(side),
            Self::Messages(side) => meter.messages(side),
        }
    }

    fn position(self) -> usize {
        match self {
            Self::Bytes(Side::Client) => 0,
            Self::Bytes(Side::Endpoint) => 1,
            Self::Messages(Side::Client) => 2,
            Self::Messages(Side::Endpoint) => 3,
        }
    }
}

/// The traffic of the tunnels of one endpoint series, open ones included.
//
// A meter is not shared: only its worker can read it. So the worker adds its open tunnels up when a
// scrape asks for it, and publishes the sum. What is published never decreases, although a tunnel
// that ends moves from one part of the sum to the other, because the same thread does both.
#[derive(Debug, Default)]
pub struct Traffic {
    ended: CounterArray<4>,
    sum: CounterArray<4>,
    published: CounterArray<4>,
}

impl Traffic {
    /// Adds a tunnel that has ended.
    pub fn add_ended(&self, meter: &Meter) {
        for kind in TrafficKind::ALL {
            self.ended.at(kind.position()).add(kind.of(meter));
        }
    }

    /// Adds the traffic of tunnels that have all ended. Nothing else may be counted here.
    pub(super) fn absorb(&self, other: &Self) {
        self.ended.absorb(&other.ended);
        // What the other has published may be older.
        self.published.absorb(&other.ended);
    }

    /// Begins a sum with the tunnels that have ended.
    pub fn begin_sum(&self) {
        for position in 0..TrafficKind::ALL.len() {
            self.sum.at(position).set(self.ended.at(position).get());
        }
    }

    /// Adds an open tunnel to the sum.
    pub fn add_live(&self, meter: &Meter) {
        for kind in TrafficKind::ALL {
            self.sum.at(kind.position()).add(kind.of(meter));
        }
    }

    /// Publishes the sum.
    pub fn publish(&self) {
        for position in 0..TrafficKind::ALL.len() {
            self.published.at(position).set(self.sum.at(position).get());
        }
    }

    /// The published sum.
    pub fn published(&self, kind: TrafficKind) -> u64 {
        self.published.at(kind.position()).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_open_tunnels_is_published_and_never_goes_back() {
        let traffic = Traffic::default();
        let meter = Meter::default();
        meter.count(Side::Client, 5);
        meter.count_messages(Side::Endpoint, 2);
        let sum = |live: Option<&Meter>| {
            traffic.begin_sum();
            live.into_iter().for_each(|meter| traffic.add_live(meter));
            traffic.publish();
            let published = |kind| traffic.published(kind);
            (
                published(TrafficKind::Bytes(Side::Client)),
                published(TrafficKind::Messages(Side::Endpoint)),
            )
        };
        assert_eq!(sum(Some(&meter)), (5, 2));
        meter.count(Side::Client, 1);
        traffic.add_ended(&meter);
        assert_eq!(sum(None), (6, 2));
    }
}
