//! In which order the addresses of a name are tried, and for how long each.
//!
//! Pure: given results and the time, it returns an order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long an address that failed is tried last. After that, one session tries it in its place again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The minimum time for one address, as long as that much remains.
const MIN_SHARE: Duration = Duration::from_millis(250);

/// The addresses of an endpoint that failed lately.
#[derive(Debug, Default)]
pub(super) struct AddressHistory {
    failed: Vec<(SocketAddr, Instant)>,
}

impl AddressHistory {
    /// The order in which to try `addresses`: those that failed last.
    pub(super) fn order(&mut self, addresses: Vec<SocketAddr>, now: Instant) -> Vec<SocketAddr> {
        self.failed.retain(|(failed, _)| addresses.contains(failed));
        if self.failed.is_empty() {
            return addresses;
        }
        let (mut order, last): (Vec<_>, Vec<_>) = addresses
            .into_iter()
            .partition(|address| !self.is_tried_last(*address, now));
        order.extend(last);
        order
    }

    fn is_tried_last(&mut self, address: SocketAddr, now: Instant) -> bool {
        let mut failed = self.failed.iter_mut();
        let Some((_, at)) = failed.find(|(failed, _)| *failed == address) else {
            return false;
        };
        if now.saturating_duration_since(*at) < RETRY_INTERVAL {
            return true;
        }
        // Only this session tries it: for the others, it keeps its place until that has succeeded.
        *at = now;
        false
    }

    /// A connection to `address` was established.
    pub(super) fn succeeded(&mut self, address: SocketAddr) {
        self.failed.retain(|(failed, _)| *failed != address);
    }

    /// A connection to `address` failed.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Instant) {
        self.succeeded(address);
        self.failed.push((address, now));
    }
}

/// How long the next of `count` addresses is tried, if `remaining` is left for all of them: its share, but
/// not less than [`MIN_SHARE`]. The last one gets all that is left.
pub(super) fn share(remaining: Duration, count: usize) -> Duration {
    let count = u32::try_from(count).unwrap_or(u32::MAX).max(1);
    (remaining / count).max(MIN_SHARE).min(remaining)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(hosts: &[u8]) -> Vec<SocketAddr> {
        let address = |host: &u8| SocketAddr::from(([127, 0, 0, *host], 9000));
        hosts.iter().map(address).collect()
    }

    #[test]
    fn the_one_that_worked_goes_first() {
        let now = Instant::now();
        let mut history = AddressHistory::default();
        let [first, second, third] = addresses(&[1, 2, 3])[..] else {
            unreachable!()
        };
        let all = || vec![first, second, third];
        assert_eq!(history.order(all(), now), all());
        history.failed(first, now);
        history.succeeded(second);
        assert_eq!(history.order(all(), now), [second, third, first]);
        // The resolver's order counts among those that did not fail.
        assert_eq!(
            history.order(vec![first, third, second], now),
            [third, second, first]
        );
        history.failed(second, now);
        history.failed(third, now);
        assert_eq!(history.order(all(), now), all(), "all failed");
        history.succeeded(third);
        assert_eq!(history.order(all(), now), [third, first, second]);
    }

    #[test]
    fn one_session_tries_a_failed_address_again_after_a_while() {
        let now = Instant::now();
        let mut history = AddressHistory::default();
        let all = || addresses(&[1, 2]);
        history.failed(all()[0], now);
        let later = now + RETRY_INTERVAL;
        assert_eq!(history.order(all(), later), addresses(&[1, 2]));
        assert_eq!(history.order(all(), later), addresses(&[2, 1]), "only one");
        history.succeeded(all()[0]);
        assert_eq!(history.order(all(), later), addresses(&[1, 2]));
    }

    #[test]
    fn addresses_that_the_name_has_no_more_are_forgotten() {
        let now = Instant::now();
        let mut history = AddressHistory::default();
        for host in 1..=200 {
            history.failed(addresses(&[host])[0], now);
            history.order(addresses(&[host, 250]), now);
        }
        assert_eq!(history.failed.len(), 1);
    }

    #[test]
    fn each_address_gets_its_share_of_what_remains() {
        let ms = Duration::from_millis;
        assert_eq!(share(ms(3000), 2), ms(1500));
        assert_eq!(share(ms(1500), 1), ms(1500));
        assert_eq!(share(ms(3000), 100), MIN_SHARE);
        assert_eq!(share(ms(100), 100), ms(100));
        assert_eq!(share(ms(0), 3), ms(0));
        assert_eq!(share(ms(3000), 0), ms(3000));
        // Shares of any number of addresses never exceed the limit together.
        for count in 1..100 {
            let mut left = ms(3000);
            for tried in 0..count {
                left -= share(left, count - tried);
            }
            assert_eq!(left, ms(0));
        }
    }
}
