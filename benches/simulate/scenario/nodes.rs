//! Many nodes in front of the same endpoints: what each knows alone, with reports, and with the truth.

use std::fmt::Write;
use std::thread;

use tidegate::upstream::balance::Policy;

use super::{HASH, MINUTE, Outcome, RATIO, mean, most};
use crate::lifetime::Lifetime;
use crate::nodes::{NodesEvent, NodesLook, NodesWorld, View, run};
use crate::plot::{BLACK, BLUE, GREEN, Line, ORANGE, PINK, Plot, RED, Style, dashed};

/// What is compared.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    policy: Policy,
    view: View,
    style: Style,
}

const fn variant(name: &'static str, policy: Policy, view: View, style: Style) -> Variant {
    Variant {
        name,
        policy,
        view,
        style,
    }
}

/// What is compared with all tunnels. Each takes a minute or two.
const MAIN: [Variant; 6] = {
    let (least, two) = (Policy::LeastConnections, Policy::PowerOfTwo);
    [
        variant("least_connections, alone", least, View::Alone, BLUE),
        variant("… reports by checks", least, View::Checks, dashed(BLUE)),
        variant(
            "… by handshakes, too",
            least,
            View::Handshakes,
            dashed(BLACK),
        ),
        variant("… true counts", least, View::Truth, BLACK),
        variant("power_of_two, alone", two, View::Alone, GREEN),
        variant(
            "round_robin, alone",
            Policy::RoundRobin,
            View::Alone,
            ORANGE,
        ),
    ]
};

/// What is compared with fewer tunnels only.
const MORE: [Variant; 4] = {
    let (least, two) = (Policy::LeastConnections, Policy::PowerOfTwo);
    [
        variant("least_connections, not scaled", least, View::Unscaled, RED),
        variant(
            "power_of_two, by handshakes, too",
            two,
            View::Handshakes,
            dashed(GREEN),
        ),
        variant("… true counts", two, View::Truth, dashed(RED)),
        variant("hash (a key each), alone", HASH, View::Alone, PINK),
    ]
};

/// A part of the timeline: its name, and its first and last minute.
type Phase = (&'static str, f64, f64);

const PHASES: [Phase; 6] = [
    ("quiet", 0.0, 5.0),
    ("nodes restart", 5.0, 25.0),
    ("endpoints restart", 25.0, 45.0),
    ("a zone dies", 45.0, 55.0),
    ("the zone is back", 55.0, 70.0),
    ("all reconnect", 70.0, 80.0),
];

/// The mean tunnels of endpoints, times this, are the maximum of each: a dead zone of three leaves 1.5 times the
/// mean to the others.
const MAX: f64 = 1.6;

/// Everything that happens to a fleet within 80 minutes.
fn events(nodes: usize, endpoints: usize) -> Vec<(f64, NodesEvent)> {
    let mut events = Vec::new();
    for node in 0..nodes {
        let at = 5.0 * MINUTE + 16.0 * MINUTE * node as f64 / nodes as f64;
        events.push((at, NodesEvent::NodesDown((node, 1))));
        events.push((at + 20.0, NodesEvent::NodesUp((node, 1))));
    }
    // Two in a hundred at a time.
    let batch = endpoints.div_ceil(50);
    for turn in 0..endpoints.div_ceil(batch) {
        let first = turn * batch;
        let which = (first, batch.min(endpoints - first));
        let at = 25.0 * MINUTE + 18.0 * turn as f64;
        events.push((at, NodesEvent::EndpointsDown(which)));
        events.push((at + 15.0, NodesEvent::EndpointsUp(which)));
    }
    let zone = ((0, nodes / 3), (0, endpoints / 3));
    let (dies, returns) = (45.0 * MINUTE, 55.0 * MINUTE);
    events.push((dies, NodesEvent::NodesDown(zone.0)));
    events.push((dies, NodesEvent::EndpointsDown(zone.1)));
    events.push((returns, NodesEvent::NodesUp(zone.0)));
    events.push((returns, NodesEvent::EndpointsUp(zone.1)));
    events.push((70.0 * MINUTE, NodesEvent::Storm(30.0)));
    events
}

fn world(nodes: usize, endpoints: usize, tunnels: usize) -> NodesWorld {
    NodesWorld {
        nodes,
        endpoints,
        tunnels,
        max: MAX,
        lifetime: Lifetime {
            mean: 240.0 * MINUTE,
            spread: 2.0,
        },
        events: events(nodes, endpoints),
        others: (0, 0),
        duration: 80.0 * MINUTE,
    }
}

/// Runs all variants, as many at a time as there are processors.
fn run_all(world: &NodesWorld, variants: &[Variant], seed: u64) -> Vec<(Variant, Vec<NodesLook>)> {
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let mut results = Vec::new();
    for some in variants.chunks(at_once) {
        results.extend(thread::scope(|scope| {
            let running = some.iter().map(|&variant| {
                scope.spawn(move || (variant, run(world, variant.policy, variant.view, seed)))
            });
            let running: Vec<_> = running.collect();
            let ended = running.into_iter().map(|it| it.join().unwrap());
            ended.collect::<Vec<_>>()
        }));
    }
    results
}

fn within(looks: &[NodesLook], (_, first, last): Phase) -> impl Iterator<Item = &NodesLook> {
    let looks = looks.iter();
    looks.filter(move |look| (first * MINUTE..last * MINUTE).contains(&look.at))
}

/// For each variant and phase: the worst imbalance, that at the end of the phase, and refused handshakes.
fn table_of(results: &[(Variant, Vec<NodesLook>)]) -> String {
    let names = PHASES.map(|(name, ..)| name).join(" | ");
    let mut table = format!(
        "| policy and view | {names} |\n|{}\n",
        "---|".repeat(PHASES.len() + 1)
    );
    let mut policy = "";
    for (variant, looks) in results {
        let name = match variant.name.strip_prefix("… ") {
            Some(view) => format!("{policy}, {view}"),
            None => variant.name.to_owned(),
        };
        policy = name_of(variant.policy);
        let _ = write!(table, "| {name} |");
        for phase in PHASES {
            let worst = most(within(looks, phase).map(|look| look.imbalance));
            let end = within(looks, phase)
                .last()
                .map_or(0.0, |look| look.imbalance);
            let refused: usize = within(looks, phase).map(|look| look.refused).sum();
            let _ = write!(table, " {worst:.2} → {end:.2}");
            if refused > 0 {
                let _ = write!(table, ", {refused} refused");
            }
            table.push_str(" |");
        }
        table.push('\n');
    }
    table
}

fn name_of(policy: Policy) -> &'static str {
    match policy {
        Policy::LeastConnections => "least_connections",
        Policy::PowerOfTwo => "power_of_two",
        Policy::RoundRobin => "round_robin",
        Policy::Random => "random",
        Policy::Hash { .. } => "hash",
    }
}

pub(super) fn nodes(seed: u64) -> Outcome {
    let results = run_all(&world(100, 1000, 5_000_000), &MAIN, seed);
    let lines = |value: fn(&[NodesLook]) -> f64| {
        let each = results.iter();
        let line = |(variant, looks): &(Variant, Vec<NodesLook>)| Line {
            name: variant.name.to_owned(),
            style: variant.style,
            // A point for every ten seconds keeps the file small.
            points: looks
                .chunks(10)
                .map(|some| (some[0].at / MINUTE, value(some)))
                .collect(),
        };
        each.map(line).collect()
    };
    let table = format!("{HEAD}.\n\n{}", table_of(&results));
    let plots = vec![
        Plot {
            name: "nodes",
            title: "100 nodes, 1000 endpoints, 5 million tunnels",
            across: "minutes",
            up: RATIO,
            span: (0.0, 80.0),
            range: (1.0, 2.0),
            lines: lines(|looks| most(looks.iter().map(|look| look.imbalance))),
        },
        Plot {
            name: "nodes-refused",
            title: "100 nodes, 1000 endpoints, 5 million tunnels: what is refused",
            across: "minutes",
            up: "refused handshakes per second",
            span: (0.0, 80.0),
            range: (0.0, 20_000.0),
            lines: lines(|looks| mean(looks.iter().map(|look| look.refused as f64))),
        },
    ];
    Outcome { table, plots }
}

const HEAD: &str = "The worst of most / mean → that at the end, and refused handshakes";

/// Where a node alone knows too little: few tunnels on each endpoint, and tunnels of others.
pub(super) fn few(seed: u64) -> Outcome {
    let mut table = String::new();
    let quiet = |each: usize, others| NodesWorld {
        events: Vec::new(),
        others,
        duration: 30.0 * MINUTE,
        ..world(100, 1000, 1000 * each)
    };
    let cases = [
        ("5 tunnels on each endpoint", quiet(5, (0, 0))),
        ("20 tunnels on each endpoint", quiet(20, (0, 0))),
        ("100 tunnels on each endpoint", quiet(100, (0, 0))),
        (
            "100 tunnels on each endpoint, and 50 of others on a tenth of them",
            quiet(100, (100, 50)),
        ),
    ];
    let _ = writeln!(
        table,
        "| after half an hour | {} |",
        MAIN.map(|it| it.name).join(" | ")
    );
    let _ = writeln!(table, "|{}", "---|".repeat(MAIN.len() + 1));
    for (name, world) in cases {
        let results = run_all(
            &NodesWorld {
                lifetime: Lifetime {
                    mean: 10.0 * MINUTE,
                    spread: 1.0,
                },
                max: 3.0,
                ..world
            },
            &MAIN,
            seed,
        );
        let _ = write!(table, "| {name} |");
        for (_, looks) in &results {
            let settled = looks.iter().filter(|look| look.at >= 20.0 * MINUTE);
            let _ = write!(table, " {:.2} |", mean(settled.map(|look| look.imbalance)));
        }
        table.push('\n');
    }
    Outcome {
        table,
        plots: Vec::new(),
    }
}

/// A tenth of the endpoints and fewer tunnels, with more policies, in seconds.
pub(super) fn quick(seed: u64) -> Outcome {
    let variants = [MAIN.as_slice(), &MORE].concat();
    let results = run_all(&world(20, 100, 200_000), &variants, seed);
    Outcome {
        table: format!("{HEAD}.\n\n{}", table_of(&results)),
        plots: Vec::new(),
    }
}
