//! How much a look costs, and that nothing is forgotten when endpoints change.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config;
use crate::config::model::{Address, EndpointConfig};
use crate::protocol::handshake_response::ResponseHead;
use crate::upstream::check_steps::CheckError;
use crate::upstream::health::SessionFailure;

const STEP: Duration = Duration::from_millis(50);

const CHECKED: &str = "health = { tcp = {}, interval = \"10s\", timeout = \"1s\" }";
const REPORTING: &str = "slow_start = \"1m\"\nreports = {}";
const EJECTING: &str = "ejection = { failures = 1, base = \"10s\", max_share = 1.0 }";

/// A snapshot with this many endpoints.
fn snapshot(endpoints: usize, settings: &str, before: Option<&Snapshot>) -> Arc<Snapshot> {
    let listed: Vec<_> = (0..endpoints)
        .map(|number| format!("\"10.{}.{}.1:9000\"", number / 256, number % 256))
        .collect();
    let lines = format!("endpoints = [{}]\n{settings}", listed.join(", "));
    with_upstream(&lines, before)
}

/// A snapshot whose upstream has these lines.
fn with_upstream(lines: &str, before: Option<&Snapshot>) -> Arc<Snapshot> {
    let text = format!(
        "[listener.main]\nbind = [\"127.0.0.1:0\"]\n[[route]]\nname = \"main\"\n\
         upstream = \"main\"\n[upstream.main]\n{lines}\n"
    );
    let loaded = match config::parse(&text, Path::new("config.toml"), &|_| None) {
        Ok(loaded) => loaded,
        Err(report) => panic!("{}", report.render(false)),
    };
    Arc::new(Snapshot::new(&loaded.config, before).unwrap())
}

fn pass(check: DueCheck, now: Instant) -> EndedCheck {
    let settings = check.settings.clone();
    check.endpoint.health(now, |health| {
        health.checked(Ok(()), &settings, 0.5, now);
    });
    check.end()
}

#[test]
fn a_look_costs_what_is_due() {
    const ENDPOINTS: usize = 10_000;
    let snapshot = snapshot(ENDPOINTS, CHECKED, None);
    let mut schedule = Schedule::default();
    let mut now = Instant::now();
    schedule.look(&snapshot, 0, now);
    assert_eq!(schedule.examined, ENDPOINTS as u64);
    let mut checked = 0;
    // One interval, in which each endpoint is checked once.
    for _ in 0..200 {
        now += STEP;
        let before = schedule.examined;
        let (due, _) = schedule.look(&snapshot, usize::MAX, now);
        assert_eq!(schedule.examined - before, due.len() as u64);
        checked += due.len();
        for check in due {
            let ended = pass(check, now);
            schedule.ended(&ended, &snapshot, now);
        }
    }
    assert_eq!(checked, ENDPOINTS);
    assert_eq!(schedule.checks.len(), ENDPOINTS);
}

#[test]
fn no_more_checks_begin_than_allowed_and_the_most_overdue_come_first() {
    let snapshot = snapshot(100, CHECKED, None);
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.look(&snapshot, 0, now);
    let later = now + Duration::from_secs(11);
    let mut begun = Vec::new();
    for _ in 0..10 {
        let next = schedule.checks.peek().unwrap().0.at;
        let (due, _) = schedule.look(&snapshot, 10, later);
        assert_eq!(due.len(), 10);
        assert!(schedule.checks.peek().is_none_or(|rest| rest.0.at >= next));
        begun.extend(due.iter().map(|check| check.endpoint.id));
    }
    assert!(schedule.look(&snapshot, 10, later).0.is_empty());
    begun.sort_unstable();
    begun.dedup();
    assert_eq!(begun.len(), 100);
}

#[test]
fn a_reload_during_a_check_neither_postpones_nor_doubles_the_next_one() {
    let first = snapshot(1, CHECKED, None);
    let mut schedule = Schedule::default();
    let mut now = Instant::now();
    schedule.look(&first, 0, now);
    now += Duration::from_secs(10);
    let running = schedule.look(&first, 9, now).0.remove(0);
    let second = snapshot(1, CHECKED, Some(&first));
    drop(first);
    assert!(schedule.look(&second, 9, now).0.is_empty());
    let ended = pass(running, now);
    schedule.ended(&ended, &second, now);
    let mut checks = Vec::new();
    for step in 0..1000 {
        let at = now + STEP * step;
        for check in schedule.look(&second, 9, at).0 {
            checks.push((at - now).as_secs());
            let ended = pass(check, at);
            schedule.ended(&ended, &second, at);
        }
    }
    assert_eq!(checks, [10, 20, 30, 40]);
    // Without checks, none are due.
    let without = snapshot(1, "", Some(&second));
    let at = now + Duration::from_secs(100);
    assert!(schedule.look(&without, 9, at).0.is_empty());
    assert!(!schedule.has_checks());
}

#[test]
fn endpoints_from_discovery_are_checked_and_removed_ones_are_not() {
    let snapshot = snapshot(1, CHECKED, None);
    let mut schedule = Schedule::default();
    let mut now = Instant::now();
    schedule.look(&snapshot, 0, now);
    now += Duration::from_secs(10);
    let running = schedule.look(&snapshot, 9, now).0.remove(0);
    // A tunnel still holds the one that is removed.
    let _removed = Arc::clone(&running.endpoint);
    let found = Address::Ip("127.0.0.9:1".parse().unwrap());
    snapshot.upstreams()[0].set_endpoints(&[EndpointConfig::at(found)]);
    schedule.look(&snapshot, 0, now);
    let ended = pass(running, now);
    schedule.ended(&ended, &snapshot, now);
    let (due, _) = schedule.look(&snapshot, 9, now + Duration::from_secs(60));
    let due: Vec<_> = due.iter().map(|check| &*check.endpoint.label).collect();
    assert_eq!(due, ["127.0.0.9:1"]);
}

#[test]
fn a_check_of_a_pod_says_nothing_about_the_next_one_at_its_address() {
    let service = "kubernetes = { service = \"chat\", port = \"ws\", namespace = \"games\", \
        api = \"http://127.0.0.1:1\" }";
    let snapshot = with_upstream(&format!("{service}\n{CHECKED}"), None);
    let upstream = &snapshot.upstreams()[0];
    let take_address = |name: &str| {
        let address = Address::Ip("127.0.0.9:1".parse().unwrap());
        upstream.set_endpoints(&[EndpointConfig {
            name: Some(name.into()),
            ..EndpointConfig::at(address)
        }]);
    };
    let mut schedule = Schedule::default();
    let mut now = Instant::now();
    take_address("chat-a");
    let mut begin = || {
        schedule.look(&snapshot, 0, now);
        now += Duration::from_secs(10);
        schedule.look(&snapshot, 9, now).0.remove(0)
    };
    let late = begin();
    take_address("chat-b");
    let own = begin();
    let is_failing = |check: &DueCheck| {
        check.record(Some(&CheckError::Closed));
        let health = |health: &mut EndpointHealth| health.fault().is_some();
        check.endpoint.health(Instant::now(), health)
    };
    assert!(!is_failing(&late));
    assert!(is_failing(&own));
    let counts = own.endpoint.health(now, |health| health.counts());
    assert_eq!(counts.checks.iter().sum::<u64>(), 2, "both were made");
}

#[test]
fn the_end_of_an_ejection_is_noticed() {
    let first = snapshot(2, EJECTING, None);
    let upstream = &first.upstreams()[0];
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.look(&first, 9, now);
    let endpoint = Arc::clone(&upstream.endpoints()[0]);
    let time = upstream.failed(&endpoint, SessionFailure::Connect, now);
    let end = now + time.unwrap();
    let before = schedule.examined;
    assert!(schedule.look(&first, 9, now).1.is_empty());
    // A scrape of the metrics is faster.
    endpoint.health(end, |_| ());
    assert_eq!(schedule.look(&first, 9, end).1.len(), 1);
    assert!(schedule.look(&first, 9, end).1.is_empty(), "once");
    assert_eq!(schedule.examined, before);

    // A session of the configuration before a reload ejects it, which has no effect any more.
    let without = snapshot(2, "", Some(&first));
    schedule.look(&without, 9, end);
    let failed = upstream.failed(&endpoint, SessionFailure::Connect, end);
    assert!(failed.is_some());
    schedule.look(&without, 9, end);
    assert!(!endpoint.health(end, |health| health.is_ejected(end)));
}

/// Takes a report of the first endpoint of the first upstream.
fn take_report(snapshot: &Snapshot, text: &str) -> Arc<EndpointState> {
    let upstream = &snapshot.upstreams()[0];
    let endpoint = Arc::clone(&upstream.endpoints()[0]);
    let response = format!("HTTP/1.1 200 OK\r\ntidegate-load: {text}\r\n\r\n");
    let (head, _) = ResponseHead::parse(response.as_bytes()).unwrap().unwrap();
    upstream.take_report(&endpoint, endpoint.incarnation(), &head);
    endpoint
}

#[test]
fn the_end_of_a_reported_drain_by_time_begins_a_slow_start() {
    let first = snapshot(2, REPORTING, None);
    let mut schedule = Schedule::default();
    let now = Instant::now();
    schedule.look(&first, 9, now);
    for _ in 0..5 {
        take_report(&first, "drain");
    }
    schedule.look(&first, 9, now);
    assert_eq!(schedule.reports.len(), 1, "one appointment for all reports");
    let endpoint = take_report(&first, "drain");
    let is_warming = |snapshot: &Snapshot, at| snapshot.upstreams()[0].is_warming(&endpoint, at);
    let before = now + Duration::from_secs(29);
    schedule.look(&first, 9, before);
    assert!(!is_warming(&first, before));
    // The appointment is that of the endpoint, whatever the snapshot.
    let second = snapshot(2, REPORTING, Some(&first));
    schedule.look(&second, 9, before);
    let after = now + Duration::from_secs(40);
    schedule.look(&second, 9, after);
    assert!(is_warming(&second, after));
    assert!(schedule.reports.is_empty());
    // What holds nothing back needs no appointment.
    take_report(&second, "tunnels=5");
    schedule.look(&second, 9, after);
    assert!(schedule.reports.is_empty());
    take_report(&second, "max=5");
    schedule.look(&second, 9, now);
    assert_eq!(schedule.reports.len(), 1);
}
