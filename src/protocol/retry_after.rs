//! `Retry-After`: when a client that is refused for now should come back.
//!
//! Clients that are refused at the same time must not come back at the same time, so a part of the time is random.
//! It grows with what is known of those who wait already. And when another server wants us to come back.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use super::rejection::Rejection;
use crate::config::model::Rate;

/// Seconds over which clients come back where nothing is known of others.
const SPREAD: u64 = 4;

/// The longest time of a client that is over its own rate.
const MAX_LEAST: Duration = Duration::from_secs(60 * 60);

/// The longest time for what others do: they may be attackers, who must not keep a client away.
pub const MAX_QUEUE: Duration = Duration::from_secs(60);

/// The longest `Retry-After`, in seconds.
pub const MAX_RETRY_AFTER: u64 = MAX_LEAST.as_secs() + MAX_QUEUE.as_secs() + SPREAD;

/// How long a client that is refused has to wait, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientWait {
    /// Before that, it is refused again.
    least: Duration,
    /// Over this time, in addition, those that are refused now come back.
    spread: Duration,
}

impl ClientWait {
    /// A client over its own rate: until one event is allowed again, or up to a whole burst.
    pub fn of_rate(rate: Rate) -> Self {
        let seconds = |events: f64| {
            let time = Duration::try_from_secs_f64(events / rate.per_second);
            time.unwrap_or(Duration::MAX)
        };
        Self {
            least: seconds(1.0).min(MAX_LEAST),
            spread: seconds(f64::from(rate.burst.get())).min(MAX_QUEUE),
        }
    }

    /// The turn of a client comes after this time, because others have been refused before it.
    pub fn of_turn(turn: Duration) -> Self {
        Self {
            least: turn.min(MAX_QUEUE),
            spread: Duration::ZERO,
        }
    }

    /// A queue of `size`, in which `waiting` requests wait for up to `timeout`.
    pub fn of_queue(waiting: usize, size: usize, timeout: Duration) -> Self {
        let fullness = waiting.min(size) as f64 / size.max(1) as f64;
        Self {
            least: Duration::ZERO,
            spread: timeout.min(MAX_QUEUE).mul_f64(fullness),
        }
    }
}

/// The `Retry-After` of a rejection, in seconds; `None` if it has none. `random` is from 0 to 1.
pub fn retry_after(rejection: Rejection, wait: ClientWait, random: f64) -> Option<u64> {
    if !matches!(
        rejection.status(),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
    ) {
        return None;
    }
    let least = whole_seconds(wait.least).max(1);
    let spread = whole_seconds(wait.spread) + SPREAD;
    // Each of these seconds is as likely as the others.
    let part = (random.clamp(0.0, 1.0) * (spread + 1) as f64) as u64;
    Some((least + part.min(spread)).min(MAX_RETRY_AFTER))
}

/// How long another server wants us to wait, at the time `now`: its `Retry-After` is in seconds or a date (RFC 9110
/// section 10.2.3).
pub fn wanted(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let written = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = written.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(written).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: f64, burst: u32) -> Rate {
        Rate {
            per_second,
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    fn waits() -> impl Strategy<Value = ClientWait> {
        let times = || (0..u64::MAX / 2).prop_map(Duration::from_millis);
        prop_oneof![
            Just(ClientWait::default()),
            (1e-9..1e9_f64, 1..=u32::MAX)
                .prop_map(|(each, burst)| ClientWait::of_rate(rate(each, burst))),
            times().prop_map(ClientWait::of_turn),
            (any::<usize>(), any::<usize>(), times())
                .prop_map(|(waiting, size, timeout)| ClientWait::of_queue(waiting, size, timeout)),
        ]
    }

    proptest! {
        #[test]
        fn every_wait_has_bounds(wait in waits(), random in 0.0..=1.0) {
            for rejection in Rejection::ALL {
                let may_return = matches!(rejection.status().as_u16(), 429 | 503);
                match retry_after(*rejection, wait, random) {
                    Some(seconds) => prop_assert!(may_return && (1..=MAX_RETRY_AFTER).contains(&seconds)),
                    None => prop_assert!(!may_return),
                }
            }
        }

        /// However many come back, and whatever they wait for: no second gets more than its share of a fifth.
        #[test]
        fn those_that_are_refused_come_back_over_several_seconds(wait in waits(), clients in 5..500_u64) {
            let mut seconds = std::collections::HashMap::<u64, u64>::new();
            for client in 0..clients {
                let random = client as f64 / clients as f64;
                let after = retry_after(Rejection::RouteFull, wait, random).unwrap();
                *seconds.entry(after).or_default() += 1;
            }
            let most = clients / (SPREAD + 1) + 1;
            prop_assert!(seconds.values().all(|count| *count <= most), "{seconds:?}");
        }

        #[test]
        fn it_grows_with_the_queue(
            size in 1..10_000_usize,
            few in 0..10_000_usize,
            more in 0..10_000_usize,
            seconds in 0..1000_u64,
            random in 0.0..=1.0,
        ) {
            let timeout = Duration::from_secs(seconds);
            let after = |waiting| {
                let wait = ClientWait::of_queue(waiting, size, timeout);
                retry_after(Rejection::EndpointsFull, wait, random)
            };
            prop_assert!(after(few) <= after(few + more));
            let turn = |waiting: usize| ClientWait::of_turn(Duration::from_millis(waiting as u64));
            let after = |waiting| retry_after(Rejection::HandshakeRate, turn(waiting), random);
            prop_assert!(after(few) <= after(few + more));
        }
    }

    #[test]
    fn it_follows_from_what_is_waited_for() {
        for (wait, from, to) in [
            (ClientWait::default(), 1, 5),
            (ClientWait::of_rate(rate(100.0, 100)), 1, 6),
            (ClientWait::of_rate(rate(0.1, 3)), 10, 44),
            (ClientWait::of_rate(rate(1.0 / 86_400.0, 1)), 3600, 3664),
            (ClientWait::of_turn(Duration::from_millis(7200)), 8, 12),
            (ClientWait::of_turn(Duration::MAX), 60, 64),
            (ClientWait::of_queue(0, 100, Duration::from_secs(30)), 1, 5),
            (
                ClientWait::of_queue(50, 100, Duration::from_secs(30)),
                1,
                20,
            ),
            (
                ClientWait::of_queue(100, 100, Duration::from_secs(30)),
                1,
                35,
            ),
            (ClientWait::of_queue(0, 0, Duration::from_secs(30)), 1, 5),
        ] {
            let after = |random| retry_after(Rejection::NoEndpoint, wait, random);
            assert_eq!(
                (after(0.0), after(0.999_999)),
                (Some(from), Some(to)),
                "{wait:?}"
            );
        }
    }

    #[test]
    fn what_another_server_wants_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_767);
        for (written, expected) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, written.parse().unwrap());
            let found = wanted(&headers, now);
            assert_eq!(found, expected.map(Duration::from_secs), "{written}");
        }
        assert_eq!(wanted(&HeaderMap::new(), now), None);
    }
}
