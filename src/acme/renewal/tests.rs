//! What holds of all dates, and a clock that jumps.

use proptest::prelude::*;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn life(start: u64, length: u64) -> CertificateLife {
    CertificateLife {
        not_before: at(start),
        not_after: at(start + length),
    }
}

/// Waits as a keeper does, by a clock that may jump, and counts the orders within this time of no clock.
fn orders_within(length: Duration, lifetime: Duration, jump: (Duration, i64)) -> (u32, Duration) {
    let (jump_at, jump_by) = jump;
    let clock = |passed: Duration| {
        let by = if passed < jump_at { 0 } else { jump_by };
        at(10_000_000).checked_add(passed).unwrap() - Duration::from_secs(2 * 60 * 60)
            + Duration::from_secs(u64::try_from(7200 + by).unwrap())
    };
    // The authority's clock is right.
    let issue = |passed: Duration| CertificateLife {
        not_before: at(10_000_000) + passed,
        not_after: at(10_000_000) + passed + lifetime,
    };
    let (mut passed, mut rest_until) = (Duration::ZERO, Duration::ZERO);
    let mut current = issue(passed);
    let (mut orders, mut least_left) = (0, lifetime);
    while passed < length {
        let real_end = current.not_after.duration_since(at(10_000_000)).unwrap();
        least_left = least_left.min(real_end.saturating_sub(passed));
        if clock(passed) >= current.renewal(None, 7) && passed >= rest_until {
            orders += 1;
            current = issue(passed);
            rest_until = passed + current.rest(None);
        }
        passed += MAX_STEP;
    }
    (orders, least_left)
}

#[test]
fn a_clock_that_jumps_neither_repeats_orders_nor_skips_one() {
    let (month, lifetime) = (30 * DAY, 6 * DAY);
    let (regular, _) = orders_within(month, lifetime, (month, 0));
    assert_eq!(regular, 7);
    for jump_at in [Duration::ZERO, DAY, 95 * DAY / 24, 4 * DAY] {
        for jump_by in [3600, -3600] {
            let (orders, left) = orders_within(month, lifetime, (jump_at, jump_by));
            assert!(orders.abs_diff(regular) <= 1, "{orders}, {jump_by}");
            assert!(left >= lifetime / 4, "{left:?}, {jump_by}");
        }
    }
    // A clock that is years ahead costs an order a day, not one a minute.
    let (orders, _) = orders_within(month, lifetime, (DAY, 1_000_000_000));
    assert!(orders <= 31, "{orders}");
}

#[test]
fn pauses_grow_to_a_limit() {
    let minutes = |failures, kind| pause(failures, kind, 1).as_secs_f64() / 60.0;
    for (failures, kind, least) in [
        (1, FailureKind::Refused, 2.0),
        (2, FailureKind::Refused, 6.0),
        (3, FailureKind::Refused, 18.0),
        (4, FailureKind::Refused, 54.0),
        (7, FailureKind::Refused, 720.0),
        (u32::MAX, FailureKind::Refused, 720.0),
        (1, FailureKind::Outage, 0.5),
        (2, FailureKind::Outage, 1.0),
        (5, FailureKind::Outage, 8.0),
        (6, FailureKind::Outage, 10.0),
        (u32::MAX, FailureKind::Outage, 10.0),
        (1, FailureKind::RateLimited(None), 60.0),
        (9, FailureKind::RateLimited(Some(5 * MAX_STEP)), 5.0),
        (1, FailureKind::RateLimited(Some(Duration::ZERO)), 0.5),
        (1, FailureKind::RateLimited(Some(Duration::MAX)), 1440.0),
    ] {
        let waited = minutes(failures, kind);
        assert!(
            (least..=least * 1.1).contains(&waited),
            "{failures} {kind:?}: {waited}"
        );
    }
}

/// Let's Encrypt accepts five failures per name and hour. The first attempt may count twice.
#[test]
fn failed_validations_stay_below_the_limit_of_an_hour() {
    let mut begins = vec![Duration::ZERO, Duration::ZERO];
    let mut passed = Duration::ZERO;
    for failures in 1..20 {
        passed += pause(failures, FailureKind::Refused, 3);
        begins.push(passed);
    }
    for begin in &begins {
        let hour = *begin..*begin + Duration::from_secs(60 * 60);
        let within = begins
            .iter()
            .copied()
            .filter(|each| hour.contains(each))
            .count();
        assert!(within <= 5, "{within} from {begin:?}");
    }
}

proptest! {
    #[test]
    fn renewal_is_before_the_end_and_not_at_the_beginning(
        start in 0..4_000_000_000_u64,
        length in 10..20_000_000_u64,
        seed: u64,
    ) {
        let life = life(start, length);
        let renewal = life.renewal(None, seed);
        prop_assert_eq!(renewal, life.renewal(None, seed));
        let share = renewal.duration_since(life.not_before).unwrap().div_duration_f64(life.length());
        prop_assert!((0.64..0.67).contains(&share), "{}", share);
    }

    #[test]
    fn the_authority_chooses_the_window_but_not_an_outage(
        length in 10..20_000_000_u64,
        begins in 0..40_000_000_u64,
        width in 0..4_000_000_u64,
        seed: u64,
    ) {
        let life = life(1_000_000_000, length);
        let window = RenewalWindow { start: at(990_000_000 + begins), end: at(990_000_000 + begins + width) };
        let renewal = life.renewal(Some(window), seed);
        prop_assert!(renewal < life.not_after);
        let is_latest = renewal == life.not_before + life.length().mul_f64(0.9);
        prop_assert!(is_latest || (window.start..=window.end).contains(&renewal));
    }

    #[test]
    fn a_pause_never_grows_by_the_clock(pause in 0..100_000_u64, since: u32, now: u32) {
        let pause = Duration::from_secs(pause);
        let left = left_of(pause, at(since.into()), at(now.into()));
        prop_assert!(left <= pause);
        if now <= since {
            prop_assert_eq!(left, pause);
        }
    }

    #[test]
    fn a_rest_is_shorter_than_the_time_to_the_renewal(length in 10..20_000_000_u64, seed: u64) {
        let life = life(1_000_000_000, length);
        let due = life.renewal(None, seed).duration_since(life.not_before).unwrap();
        prop_assert!(life.rest(None) <= due);
        prop_assert!(life.rest(None) <= DAY);
    }

    #[test]
    fn the_share_left_is_a_share(start: u32, length: u32, now: u32) {
        let life = life(start.into(), length.into());
        let share = life.share_left(at(now.into()));
        prop_assert!((0.0..=1.0).contains(&share));
    }

    #[test]
    fn windows_are_asked_for_a_few_times_a_day(retry_after: u64) {
        let poll = window_poll(Duration::from_secs(retry_after));
        prop_assert!(poll >= Duration::from_secs(6 * 60 * 60) && poll <= DAY);
    }
}
