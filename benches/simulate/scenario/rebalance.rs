//! A scale-out in a fleet whose clients hardly ever disconnect by themselves.

use std::fmt::Write;

use tidegate::displace::rebalance::share::{EndpointLoad, excess};
use tidegate::upstream::balance::Policy;

use super::{JOINS, MINUTE, Outcome, RATIO, after, imbalance, joined, line, most};
use crate::fleet::{History, Rebalance, World, run};
use crate::lifetime::Lifetime;
use crate::plot::{BLACK, BLUE, GREEN, ORANGE, Plot, RED, Style, dashed};

const ENDPOINTS: usize = 3;

/// The tunnels on each endpoint.
const EACH: usize = 4000;

/// The variants that are compared.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    policy: Policy,
    /// In seconds.
    slow_start: f64,
    proxies: usize,
    rebalance: Option<Rebalance>,
    /// The name of its line in the chart, if it has one.
    style: Option<Style>,
}

const USUAL: Rebalance = Rebalance {
    factor: 1.2,
    rate: 5.0,
    min_age: 600.0,
};

const WITHOUT: Setting = Setting {
    name: "without",
    policy: Policy::LeastConnections,
    slow_start: 0.0,
    proxies: 1,
    rebalance: None,
    style: Some(BLACK),
};

const WITH: Setting = Setting {
    name: "factor 1.2, 5/s",
    rebalance: Some(USUAL),
    style: Some(BLUE),
    ..WITHOUT
};

fn settings() -> [Setting; 7] {
    let rebalance = |factor, rate| {
        Some(Rebalance {
            factor,
            rate,
            ..USUAL
        })
    };
    [
        WITHOUT,
        WITH,
        Setting {
            name: "factor 1.2, 5/s, slow_start 1m",
            slow_start: 60.0,
            style: Some(dashed(BLUE)),
            ..WITH
        },
        Setting {
            name: "factor 1.2, 1/s",
            rebalance: rebalance(1.2, 1.0),
            style: Some(GREEN),
            ..WITH
        },
        Setting {
            name: "factor 1.05, 5/s",
            rebalance: rebalance(1.05, 5.0),
            style: Some(ORANGE),
            ..WITH
        },
        Setting {
            name: "factor 1.2, 5/s, power_of_two",
            policy: Policy::PowerOfTwo,
            style: Some(RED),
            ..WITH
        },
        Setting {
            name: "factor 1.2, 5/s, 4 proxies",
            proxies: 4,
            style: None,
            ..WITH
        },
    ]
}

fn world(setting: Setting) -> World {
    World {
        proxies: setting.proxies,
        lifetime: Lifetime {
            mean: 8.0 * 60.0 * MINUTE,
            spread: 2.0,
        },
        rebalance: setting.rebalance,
        duration: 3.0 * 60.0 * MINUTE,
        every: 30.0,
        ..joined_late(setting.slow_start)
    }
}

/// The time at which all first tunnels are old enough to be moved.
const JOINS_LATE: f64 = 20.0;

fn joined_late(slow_start: f64) -> World {
    let mut world = joined(ENDPOINTS, EACH, slow_start);
    for (at, _) in &mut world.changes {
        *at += (JOINS_LATE - JOINS) * MINUTE;
    }
    world
}

/// Minutes from the arrival of the new endpoint until no endpoint exceeds this multiple of the mean
/// any more.
fn settled(history: &History, factor: f64) -> String {
    let looks = after(history, JOINS_LATE);
    let last = looks.filter(|look| look.imbalance > factor).last();
    let end = history.looks.last().map_or(0.0, |look| look.at);
    match last {
        None => "at once".to_owned(),
        Some(look) if look.at >= end => "later".to_owned(),
        Some(look) => format!("{:.0} min", look.at / MINUTE - JOINS_LATE),
    }
}

/// The excess right after the arrival of the new endpoint.
fn least(factor: f64) -> usize {
    let load = |in_flight| EndpointLoad {
        weight: 1,
        in_flight,
        limit: None,
    };
    let mut loads = vec![load(EACH); ENDPOINTS];
    loads.push(load(0));
    excess(&loads, 0, factor).iter().sum()
}

pub(super) fn rebalance(seed: u64) -> Outcome {
    let mut table = String::from(
        "| rebalance | no more than 1.21 × mean after | two hours later | moved | too much at first | moved again | handshakes at the new one, most |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut lines = Vec::new();
    for setting in settings() {
        let history = run(&world(setting), setting.policy, seed);
        let later = after(&history, JOINS_LATE + 120.0).next();
        let at_first = setting.rebalance.map_or(0, |it| least(it.factor));
        let _ = writeln!(
            table,
            "| {} | {} | {:.2} | {} | {at_first} | {} | {:.1}/s |",
            setting.name,
            settled(&history, 1.21),
            later.map_or(0.0, imbalance),
            history.moved,
            history.moved_again,
            most(after(&history, JOINS_LATE).map(|look| look.arrivals_rate)),
        );
        if let Some(style) = setting.style {
            // Shorter than in the table, to fit into the chart.
            let name = setting.name.replace("factor 1.2, 5/s, ", "… ");
            lines.push(line(&name, style, &history, imbalance));
        }
    }
    Outcome {
        table,
        plots: vec![Plot {
            name: "rebalance",
            title: "Three endpoints become four, and tunnels live for eight hours",
            across: "minutes",
            up: RATIO,
            span: (0.0, 180.0),
            range: (1.0, 1.4),
            lines,
        }],
    }
}
