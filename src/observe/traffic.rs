//! What tunnels carried, those that still live included.

use super::counter::Each;
use crate::tunnel::meter::Meter;
use crate::tunnel::side::Side;

/// What meters show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Bytes that came from a side.
    Bytes(Side),
    /// Messages that began to come from a side.
    Messages(Side),
}

impl Carriage {
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

/// What tunnels carried. Live ones count too, so it is summed anew whenever it is to be shown; what
/// is shown never goes back, because a tunnel's end and a sum are the same worker's work.
#[derive(Debug, Default)]
pub struct Carried {
    ended: Each<4>,
    sum: Each<4>,
    shown: Each<4>,
}

impl Carried {
    /// A tunnel has ended.
    pub fn end(&self, meter: &Meter) {
        for carriage in Carriage::ALL {
            self.ended.at(carriage.position()).add(carriage.of(meter));
        }
    }

    /// Begins a sum, with the tunnels that have ended.
    pub fn begin_sum(&self) {
        for position in 0..Carriage::ALL.len() {
            self.sum.at(position).set(self.ended.at(position).get());
        }
    }

    /// Adds a live tunnel.
    pub fn add_live(&self, meter: &Meter) {
        for carriage in Carriage::ALL {
            self.sum.at(carriage.position()).add(carriage.of(meter));
        }
    }

    /// Shows the sum.
    pub fn show(&self) {
        for position in 0..Carriage::ALL.len() {
            self.shown.at(position).set(self.sum.at(position).get());
        }
    }

    /// What is shown.
    pub fn shown(&self, carriage: Carriage) -> u64 {
        self.shown.at(carriage.position()).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_live_tunnels_carry_is_shown_and_never_goes_back() {
        let carried = Carried::default();
        let meter = Meter::default();
        meter.count(Side::Client, 5);
        meter.count_messages(Side::Endpoint, 2);
        let sum = |live: Option<&Meter>| {
            carried.begin_sum();
            live.into_iter().for_each(|meter| carried.add_live(meter));
            carried.show();
            let shown = |carriage| carried.shown(carriage);
            (
                shown(Carriage::Bytes(Side::Client)),
                shown(Carriage::Messages(Side::Endpoint)),
            )
        };
        assert_eq!(sum(Some(&meter)), (5, 2));
        meter.count(Side::Client, 1);
        carried.end(&meter);
        assert_eq!(sum(None), (6, 2));
    }
}
