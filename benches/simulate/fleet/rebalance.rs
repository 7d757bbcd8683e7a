//! Rebalancing: each proxy moves tunnels by itself, by the decisions and at the pace of tidegate.

use std::cmp::Reverse;
use std::time::Duration;

use tidegate::displace::rebalance::budget::{CHECK_INTERVAL, MoveBudget};
use tidegate::displace::rebalance::share::{EndpointLoad, excess};

use super::{Fleet, FleetEvent, RECONNECT_TIME, Time, seconds, time};

/// The configured settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rebalance {
    pub(crate) factor: f64,
    /// Tunnels per second.
    pub(crate) rate: f64,
    /// In seconds.
    pub(crate) min_age: f64,
}

impl Fleet<'_> {
    pub(super) fn rebalance(&mut self) {
        self.schedule_in(CHECK_INTERVAL.as_secs_f64(), FleetEvent::Rebalance);
        let Some(settings) = self.world.rebalance else {
            return;
        };
        let mut paces = std::mem::take(&mut self.paces);
        for (proxy, pace) in paces.iter_mut().enumerate() {
            self.rebalance_of(proxy, pace, settings);
        }
        self.paces = paces;
    }

    fn rebalance_of(&mut self, proxy: usize, pace: &mut MoveBudget, settings: Rebalance) {
        let now = Duration::from_micros(self.now);
        let allowed = pace.allows(now, settings.rate);
        let away = pace.away(now);
        let serving: Vec<usize> = (0..self.endpoints.len())
            .filter(|&number| self.endpoints[number].up)
            .collect();
        if serving.iter().any(|&number| self.is_warming(number)) {
            return;
        }
        let in_flight = &self.proxies[proxy].in_flight;
        let loads: Vec<EndpointLoad> = serving
            .iter()
            .map(|&number| EndpointLoad {
                weight: 1,
                in_flight: in_flight[number],
                limit: None,
            })
            .collect();
        let above = excess(&loads, away, settings.factor);
        let mut chosen = Vec::new();
        let giving = serving.iter().zip(above).filter(|(_, above)| *above > 0);
        for (&endpoint, above) in giving {
            let oldest = self.oldest((proxy, endpoint), settings.min_age);
            chosen.extend(oldest.into_iter().take(above).enumerate());
        }
        // Endpoints take turns: the first tunnel of each, then the second of each.
        chosen.sort_by_key(|(turn, _)| *turn);
        chosen.truncate(allowed);
        for &(_, number) in &chosen {
            self.leave(number);
            self.moved += 1;
            self.clients[number].moves += 1;
            self.moved_again += usize::from(self.clients[number].moves > 1);
            let after = self.going.f64() * RECONNECT_TIME;
            self.come_back(number, after);
        }
        if !chosen.is_empty() {
            pace.moved(now, chosen.len());
        }
    }

    fn is_warming(&self, endpoint: usize) -> bool {
        let since = self.endpoints[endpoint].since;
        since.is_some_and(|since| seconds(self.now - since) < self.world.slow_start)
    }

    fn oldest(&self, tunnel: (usize, usize), min_age: f64) -> Vec<usize> {
        let before = self.now.checked_sub(time(min_age));
        let is_old = |since: Time| before.is_some_and(|before| since <= before);
        let mut old: Vec<usize> = (0..self.clients.len())
            .filter(|&number| {
                let client = &self.clients[number];
                client.tunnel == Some(tunnel) && is_old(client.since)
            })
            .collect();
        old.sort_by_key(|&number| Reverse(self.now - self.clients[number].since));
        old
    }
}
