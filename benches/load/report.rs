//! The results as a table and as raw data.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use super::rig::peer::Peer;
use super::rig::{cores, made_by};
use super::scenario::Scale;
use super::target::AccessLogs;

/// All results of one run.
pub(crate) struct Report {
    peers: Vec<Peer>,
    rounds: usize,
    scale: Scale,
    access_logs: AccessLogs,
    rows: Vec<Row>,
}

/// One result.
pub(crate) struct Row {
    pub(crate) round: usize,
    pub(crate) scenario: String,
    pub(crate) peer: Peer,
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
}

impl Report {
    pub(crate) fn new(
        peers: &[Peer],
        rounds: usize,
        scale: Scale,
        access_logs: AccessLogs,
    ) -> Self {
        Self {
            peers: peers.to_vec(),
            rounds,
            scale,
            access_logs,
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn csv(&self) -> String {
        let mut text = "round,scenario,peer,metric,value\n".to_owned();
        for row in &self.rows {
            let (scenario, peer) = (&row.scenario, row.peer.name());
            let _ = writeln!(
                text,
                "{},\"{scenario}\",{peer},{},{}",
                row.round, row.metric, row.value
            );
        }
        text
    }

    /// One line for each scenario and metric: the medians, and the ratios of tidegate to the best other
    /// proxy and to the relay, each within its round.
    pub(crate) fn markdown(&self) -> String {
        let mut text = self.preamble();
        text.push_str("| scenario | metric |");
        for peer in &self.peers {
            let _ = write!(text, " {} |", peer.name());
        }
        let ratios: &[(&str, &[Peer])] = &[
            ("to the baseline", &[Peer::Baseline]),
            ("to best peer", &[Peer::Haproxy, Peer::Nginx, Peer::Sozu]),
            ("to the relay", &[Peer::Relay]),
        ];
        let ratios: Vec<_> = ratios
            .iter()
            .filter(|(_, others)| others.iter().any(|peer| self.peers.contains(peer)))
            .collect();
        for (title, _) in &ratios {
            let _ = write!(text, " {title} |");
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---|".repeat(self.peers.len() + ratios.len()));
        text.push('\n');
        for (scenario, metric) in self.lines() {
            let _ = write!(text, "| {scenario} | {metric} |");
            for peer in &self.peers {
                let mut values: Vec<f64> = (1..=self.rounds)
                    .filter_map(|round| self.value(round, &scenario, *peer, metric))
                    .collect();
                let _ = write!(
                    text,
                    " {} |",
                    median(&mut values).map_or("–".into(), rounded)
                );
            }
            for (_, others) in &ratios {
                let _ = write!(text, " {} |", self.ratios(&scenario, metric, others));
            }
            text.push('\n');
        }
        text
    }

    fn preamble(&self) -> String {
        let mut text = String::new();
        let versions: Vec<String> = self
            .peers
            .iter()
            .map(|peer| format!("{} {}", peer.name(), peer.version().unwrap_or_default()))
            .collect();
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let cores = cores();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let _ = writeln!(
            text,
            "{}, {} rounds, 2 threads each, access logs {}, on {cores} cores ({}), Linux {}. tidegate has the profile `bench`.",
            versions.join(", "),
            self.rounds,
            self.access_logs,
            model.unwrap_or("unknown"),
            kernel.trim(),
        );
        let _ = writeln!(text, "{}", made_by("load"));
        let missing: Vec<&str> = Peer::ALL
            .iter()
            .filter(|peer| !self.peers.contains(peer))
            .map(|peer| peer.name())
            .collect();
        if !missing.is_empty() {
            let _ = writeln!(text, "**Not compared with: {}.**", missing.join(", "));
        }
        if self.scale == Scale::Tenth {
            text.push_str("**A quick run: a tenth of everything, to see whether it works.**\n");
        }
        text.push_str(
            "Peers are medians; ratios are least–median–most over the rounds, below 1 where tidegate is \
             better (above 1 for rates).\n\n",
        );
        text
    }

    fn lines(&self) -> Vec<(String, &'static str)> {
        let mut seen = BTreeSet::new();
        let line = |row: &Row| (row.scenario.clone(), row.metric);
        self.rows
            .iter()
            .map(line)
            .filter(|line| seen.insert(line.clone()))
            .collect()
    }

    fn value(&self, round: usize, scenario: &str, peer: Peer, metric: &str) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| {
                row.round == round
                    && row.scenario == scenario
                    && row.peer == peer
                    && row.metric == metric
            })
            .map(|row| row.value)
    }

    /// The ratios of tidegate to the best of `others` in each round.
    fn ratios(&self, scenario: &str, metric: &str, others: &[Peer]) -> String {
        let more_is_better = metric.contains("/s") || metric.contains('%');
        let mut ratios: Vec<f64> = (1..=self.rounds)
            .filter_map(|round| {
                let own = self.value(round, scenario, Peer::Tidegate, metric)?;
                let values = others
                    .iter()
                    .filter_map(|peer| self.value(round, scenario, *peer, metric));
                let best = if more_is_better {
                    values.max_by(f64::total_cmp)?
                } else {
                    values.min_by(f64::total_cmp)?
                };
                // A ratio to zero is not defined.
                (best > 0.0).then_some(own / best)
            })
            .collect();
        match median(&mut ratios) {
            Some(middle) => format!(
                "{:.2}–**{middle:.2}**–{:.2}",
                ratios[0],
                ratios[ratios.len() - 1]
            ),
            None => "–".to_owned(),
        }
    }
}

/// The median. Sorts the values.
fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn rounded(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
