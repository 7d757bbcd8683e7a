//! The simulated scenarios, with their tables and diagrams.

mod nodes;
mod rebalance;

use std::fmt::Write;

use tidegate::upstream::balance::Policy;

use crate::fleet::{Change, History, Look, World, run};
use crate::lifetime::{Keys, Lifetime};
use crate::plot::{BLACK, BLUE, GREEN, Line, ORANGE, PINK, Plot, RED, Style, dashed};

/// A question that a simulation answers.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(u64) -> Outcome,
}

/// The answer: text with tables, and diagrams.
pub(crate) struct Outcome {
    pub(crate) table: String,
    pub(crate) plots: Vec<Plot>,
}

impl Scenario {
    pub(crate) const ALL: [Self; 9] = [
        Self {
            name: "steady",
            title: "Most tunnels on one endpoint, relative to the mean",
            run: steady,
        },
        Self {
            name: "restart",
            title: "A rolling restart of ten endpoints",
            run: restart,
        },
        Self {
            name: "scale-out",
            title: "One endpoint more",
            run: scale_out,
        },
        Self {
            name: "rebalance",
            title: "One endpoint more, and tunnels that live for hours",
            run: rebalance::rebalance,
        },
        Self {
            name: "proxies",
            title: "Several proxies that know nothing of each other",
            run: proxies,
        },
        Self {
            name: "hash",
            title: "Hashing, and how far the bound lets keys stay together",
            run: hash,
        },
        Self {
            name: "nodes",
            title: "100 nodes, 1000 endpoints, 5 million tunnels",
            run: nodes::nodes,
        },
        Self {
            name: "nodes-quick",
            title: "20 nodes, 100 endpoints, 200,000 tunnels, and more policies",
            run: nodes::quick,
        },
        Self {
            name: "nodes-few",
            title: "100 nodes, 1000 endpoints, few tunnels, and tunnels of others",
            run: nodes::few,
        },
    ];
}

const HASH: Policy = Policy::Hash { load_factor: 1.25 };

const POLICIES: [(&str, Policy, Style); 5] = [
    ("least_connections", Policy::LeastConnections, BLUE),
    ("power_of_two", Policy::PowerOfTwo, GREEN),
    ("round_robin", Policy::RoundRobin, ORANGE),
    ("random", Policy::Random, RED),
    ("hash (a key each)", HASH, PINK),
];

const MINUTE: f64 = 60.0;

const RATIO: &str = "most tunnels on one endpoint / mean";

/// A fleet without any change.
fn quiet(endpoints: usize, tunnels: usize) -> World {
    World {
        endpoints,
        proxies: 1,
        tunnels,
        lifetime: Lifetime {
            mean: 30.0 * MINUTE,
            spread: 2.0,
        },
        keys: Keys::Own,
        slow_start: 0.0,
        rebalance: None,
        changes: Vec::new(),
        absent: Vec::new(),
        duration: 120.0 * MINUTE,
        every: 30.0,
        watched: 0,
    }
}

fn line(name: &str, style: Style, history: &History, value: fn(&Look) -> f64) -> Line {
    let points = history.looks.iter();
    Line {
        name: name.to_owned(),
        style,
        points: points.map(|look| (look.at / MINUTE, value(look))).collect(),
    }
}

fn imbalance(look: &Look) -> f64 {
    look.imbalance
}

/// The samples from this minute on.
fn after(history: &History, minute: f64) -> impl Iterator<Item = &Look> {
    let looks = history.looks.iter();
    looks.filter(move |look| look.at >= minute * MINUTE)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

fn most(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

/// A table with a first column of text and one column for each policy.
fn policies_header(first: &str) -> String {
    let names = POLICIES.map(|(name, ..)| name).join(" | ");
    format!(
        "| {first} | {names} |\n|{}\n",
        "---|".repeat(POLICIES.len() + 1)
    )
}

fn steady(seed: u64) -> Outcome {
    let mut table = policies_header("endpoints × tunnels on each");
    for (endpoints, each) in [
        (10, 100),
        (100, 100),
        (100, 1000),
        (1000, 100),
        (1000, 2000),
    ] {
        let mut world = quiet(endpoints, endpoints * each);
        if endpoints * each > 1_000_000 {
            world.duration = 40.0 * MINUTE;
        }
        let _ = write!(table, "| {endpoints} × {each} |");
        for (_, policy, _) in POLICIES {
            let history = run(&world, policy, seed);
            let settled = after(&history, world.duration / MINUTE / 2.0);
            let _ = write!(table, " {:.2} |", mean(settled.map(imbalance)));
        }
        table.push('\n');
    }
    let world = quiet(100, 10_000);
    let lines = POLICIES
        .map(|(name, policy, style)| line(name, style, &run(&world, policy, seed), imbalance));
    Outcome {
        table,
        plots: vec![Plot {
            name: "steady",
            title: "100 endpoints, 10,000 tunnels, and nothing happens",
            across: "minutes",
            up: RATIO,
            span: (0.0, 120.0),
            range: (1.0, 1.5),
            lines: lines.into(),
        }],
    }
}

/// A rolling restart of ten endpoints: every two minutes, one is away for 20 seconds.
fn restarts(slow_start: f64) -> World {
    let changes = (0..10).flat_map(|endpoint| {
        let at = (5.0 + 2.0 * endpoint as f64) * MINUTE;
        let back = at + 20.0;
        [(at, Change::Down(endpoint)), (back, Change::Up(endpoint))]
    });
    World {
        changes: changes.collect(),
        duration: 90.0 * MINUTE,
        every: 10.0,
        slow_start,
        ..quiet(10, 10_000)
    }
}

/// The minute in which the last endpoint is back.
const RESTARTED: f64 = 24.0;

fn restart(seed: u64) -> Outcome {
    let mut table = String::from(
        "| policy | slow_start | worst | 15 minutes later | an hour later | most handshakes |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut lines = Vec::new();
    let fast = POLICIES.map(|(name, policy, style)| (name, policy, "off", 0.0, style));
    let slow = [("1m", 60.0, BLUE), ("5m", 300.0, BLACK)].map(|(setting, slow_start, style)| {
        let (name, policy, _) = POLICIES[0];
        (name, policy, setting, slow_start, dashed(style))
    });
    let [least, others @ ..] = fast;
    let each = [least].into_iter().chain(slow).chain(others);
    for (name, policy, setting, slow_start, style) in each {
        let history = run(&restarts(slow_start), policy, seed);
        let at = |minute: f64| after(&history, minute).next().map_or(0.0, imbalance);
        let _ = writeln!(
            table,
            "| {name} | {setting} | {:.2} | {:.2} | {:.2} | {:.0}/s |",
            most(history.looks.iter().map(imbalance)),
            at(RESTARTED + 15.0),
            at(RESTARTED + 60.0),
            most(history.looks.iter().map(|look| look.busiest)),
        );
        let name = match setting {
            "off" => name.to_owned(),
            _ => format!("… slow_start = {setting}"),
        };
        lines.push(line(&name, style, &history, imbalance));
    }
    Outcome {
        table,
        plots: vec![Plot {
            name: "restart",
            title: "Ten endpoints restart, one every two minutes",
            across: "minutes",
            up: RATIO,
            span: (0.0, 90.0),
            range: (1.0, 2.5),
            lines,
        }],
    }
}

/// A scale-out: one more endpoint at this minute.
fn joined(endpoints: usize, each: usize, slow_start: f64) -> World {
    World {
        absent: vec![endpoints],
        changes: vec![(JOINS * MINUTE, Change::Up(endpoints))],
        watched: endpoints,
        slow_start,
        every: 10.0,
        ..quiet(endpoints + 1, endpoints * each)
    }
}

const JOINS: f64 = 2.0;

/// Minutes until the watched endpoint has this part of its fair share.
fn reached(history: &History, part: f64) -> String {
    let first = after(history, JOINS).find(|look| look.watched >= part);
    first.map_or_else(
        || "later".to_owned(),
        |look| format!("{:.0} min", look.at / MINUTE - JOINS),
    )
}

/// Arrivals at the watched endpoint, in fair shares: in the first minute, and in the busiest one.
fn arrivals(history: &History) -> (f64, f64) {
    let looks = after(history, JOINS).skip(1);
    let arrivals: Vec<f64> = looks.map(|look| look.arrivals).collect();
    let mut minutes = arrivals
        .windows(6)
        .map(|minute| mean(minute.iter().copied()));
    let first = minutes.next().unwrap();
    (first, most(minutes).max(first))
}

fn scale_out(seed: u64) -> Outcome {
    let mut table = String::from(
        "| endpoints | policy | slow_start | first minute | busiest minute | half | 95 % |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let (least, policy, _) = POLICIES[0];
    let slow = [("5m", 300.0), ("1m", 60.0)].map(|slow| (least, policy, slow));
    let fast = POLICIES.map(|(name, policy, _)| (name, policy, ("off", 0.0)));
    for (endpoints, each) in [(3, 4000), (10, 1000), (100, 1000)] {
        for (name, policy, (setting, slow_start)) in slow.into_iter().chain(fast) {
            let history = run(&joined(endpoints, each, slow_start), policy, seed);
            let (first, busiest) = arrivals(&history);
            let _ = writeln!(
                table,
                "| {endpoints} → {} | {name} | {setting} | {first:.1} × | {busiest:.1} × | {} | {} |",
                endpoints + 1,
                reached(&history, 0.5),
                reached(&history, 0.95),
            );
        }
    }
    Outcome {
        table,
        plots: scale_out_plots(seed),
    }
}

fn scale_out_plots(seed: u64) -> Vec<Plot> {
    let least = Policy::LeastConnections;
    let histories = [
        ("least_connections", least, 0.0, BLUE),
        ("… slow_start = 1m", least, 60.0, dashed(BLUE)),
        ("… slow_start = 5m", least, 300.0, dashed(BLACK)),
        ("power_of_two", Policy::PowerOfTwo, 0.0, GREEN),
        ("round_robin", Policy::RoundRobin, 0.0, ORANGE),
    ]
    .map(|(name, policy, slow_start, style)| {
        let world = World {
            every: 30.0,
            duration: 60.0 * MINUTE,
            ..joined(3, 4000, slow_start)
        };
        (name, style, run(&world, policy, seed))
    });
    let lines = |value: fn(&Look) -> f64| {
        let each = histories.iter();
        each.map(|(name, style, history)| line(name, *style, history, value))
            .collect()
    };
    vec![
        Plot {
            name: "scale-out-arrivals",
            title: "Three endpoints become four: what arrives at the new one",
            across: "minutes",
            up: "handshakes per second",
            span: (0.0, 60.0),
            range: (0.0, 8.0),
            lines: lines(|look| look.arrivals_rate),
        },
        Plot {
            name: "scale-out-tunnels",
            title: "Three endpoints become four: what the new one has",
            across: "minutes",
            up: "its tunnels / mean",
            span: (0.0, 60.0),
            range: (0.0, 1.1),
            lines: lines(|look| look.watched),
        },
    ]
}

fn proxies(seed: u64) -> Outcome {
    let mut table = policies_header("proxies");
    for proxies in [1, 4, 16, 64] {
        let world = World {
            proxies,
            ..quiet(100, 10_000)
        };
        let _ = write!(table, "| {proxies} |");
        for (_, policy, _) in POLICIES {
            let history = run(&world, policy, seed);
            let _ = write!(
                table,
                " {:.2} |",
                mean(after(&history, 60.0).map(imbalance))
            );
        }
        table.push('\n');
    }
    let world = World {
        proxies: 16,
        ..quiet(100, 10_000)
    };
    let lines = POLICIES
        .map(|(name, policy, style)| line(name, style, &run(&world, policy, seed), imbalance));
    Outcome {
        table,
        plots: vec![Plot {
            name: "proxies",
            title: "16 proxies, 100 endpoints, 10,000 tunnels",
            across: "minutes",
            up: RATIO,
            span: (0.0, 120.0),
            range: (1.0, 1.5),
            lines: lines.into(),
        }],
    }
}

/// The kinds of keys by name, with the number of endpoints and of tunnels on each.
fn hashed() -> [(&'static str, Keys, usize, usize, Style); 4] {
    let rooms = || Keys::shared(1000);
    [
        ("a key each, 10 × 1000", Keys::Own, 10, 1000, BLUE),
        ("a key each, 100 × 100", Keys::Own, 100, 100, dashed(BLUE)),
        ("1000 rooms, 10 × 1000", rooms(), 10, 1000, ORANGE),
        ("1000 rooms, 100 × 100", rooms(), 100, 100, dashed(ORANGE)),
    ]
}

fn hash(seed: u64) -> Outcome {
    let mut table = String::from(
        "| keys, endpoints × tunnels on each | load_factor | most / mean | at home |\n\
         |---|---|---|---|\n",
    );
    let mut lines = Vec::new();
    for (name, keys, endpoints, each, style) in hashed() {
        let world = World {
            keys,
            duration: 60.0 * MINUTE,
            ..quiet(endpoints, endpoints * each)
        };
        let mut points = Vec::new();
        for percent in (100..=200).step_by(5).chain([10_000]) {
            let load_factor = f64::from(percent) / 100.0;
            let history = run(&world, Policy::Hash { load_factor }, seed);
            let at_home = history.at_home * 100.0;
            if percent <= 200 {
                points.push((load_factor, at_home));
            }
            if [100, 110, 125, 150, 200, 10_000].contains(&percent) {
                let _ = writeln!(
                    table,
                    "| {name} | {load_factor} | {:.2} | {at_home:.0} % |",
                    mean(after(&history, 30.0).map(imbalance)),
                );
            }
        }
        lines.push(Line {
            name: name.to_owned(),
            style,
            points,
        });
    }
    Outcome {
        table,
        plots: vec![Plot {
            name: "hash",
            title: "Hashing: who still comes to where the key belongs",
            across: "load_factor",
            up: "% of the clients",
            span: (1.0, 2.0),
            range: (0.0, 105.0),
            lines,
        }],
    }
}
