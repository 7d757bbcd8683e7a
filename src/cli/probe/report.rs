//! What is told of a probe: a row for each leg as it ends, or one JSON object.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::{err, out};
use super::legs::{Failure, Leg};
use super::url::Url;

/// Where a probe ended before its end.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) leg: Leg,
    pub(super) failure: Failure,
}

/// What a leg has shown, also where it failed.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// For people; the first beside the name of the leg.
    pub(super) lines: Vec<String>,
    /// For programs.
    pub(super) facts: Map<String, Value>,
}

impl Told {
    /// Adds a line.
    pub(super) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Adds a fact.
    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}

/// A probe, as far as it has been told.
pub(super) struct Report {
    /// The legs so far, where nothing is told before the end.
    json: Option<Map<String, Value>>,
    url: Box<str>,
    total: Duration,
}

impl Report {
    pub(super) fn new(url: &Url, json: bool) -> Self {
        Self {
            json: json.then(Map::new),
            url: url.text.clone(),
            total: Duration::ZERO,
        }
    }

    /// Tells of one leg.
    pub(super) fn leg(&mut self, leg: Leg, took: Duration, told: &Told) {
        self.total += took;
        match &mut self.json {
            Some(legs) => {
                let mut facts = told.facts.clone();
                facts.insert("seconds".into(), seconds(took));
                legs.insert(leg.name().into(), facts.into());
            }
            None => out(&rows(leg.name(), took, &told.lines)),
        }
    }

    /// Tells how it ended.
    pub(super) fn finish(self, failed: Option<&Failed>) {
        let Some(legs) = self.json else {
            if let Some(Failed { leg, failure }) = failed {
                err(&format!("error: {}: {}\n", leg.name(), failure.why));
                if let Some(hint) = &failure.hint {
                    err(&format!("\nhint: {hint}\n"));
                }
            } else {
                out(&rows("total", self.total, &[]));
            }
            return;
        };
        let answer = json!({
            "url": self.url,
            "ok": failed.is_none(),
            "seconds": seconds(self.total),
            "legs": legs,
            "failed": failed.map(|Failed { leg, failure }| json!({
                "leg": leg.name(),
                "error": failure.why,
                "hint": failure.hint,
            })),
        });
        out(&format!("{answer:#}\n"));
    }
}

/// To the microsecond.
fn seconds(took: Duration) -> Value {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    (f64::from(micros) / 1e6).into()
}

fn rows(name: &str, took: Duration, lines: &[String]) -> String {
    let milliseconds = took.as_secs_f64() * 1e3;
    let first = lines.first().map_or("", String::as_str);
    let mut text = format!("{name:<9} {milliseconds:>9.1} ms  {first}")
        .trim_end()
        .to_owned();
    text.push('\n');
    for line in lines.iter().skip(1) {
        text.push_str(&format!("{:24}{line}\n", ""));
    }
    text
}

/// What a peer says, fit for a terminal: on one line, of a bounded length, and without characters
/// that do something.
pub(super) fn harmless(text: &str) -> String {
    const LENGTH_MOST: usize = 200;
    let seen = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut shown: String = text.trim().chars().take(LENGTH_MOST).map(seen).collect();
    if text.trim().chars().nth(LENGTH_MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// The first of many, and how many more there are.
pub(super) fn some(all: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = all
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned() {
        let lines = ["TLSv1.3".to_owned(), "until 2027".to_owned()];
        let text = rows("tls", Duration::from_micros(12_345), &lines);
        let column = text.find("TLSv1.3").unwrap();
        assert_eq!(text.lines().nth(1).unwrap().find("until"), Some(column));
        let longest = rows("handshake", Duration::from_secs(60), &lines);
        assert_eq!(longest.find("TLSv1.3"), Some(column));
    }

    #[test]
    fn nobody_writes_to_the_terminal_but_us() {
        assert_eq!(
            harmless(" a\x1b[2J\nb\u{9b}c "),
            "a\u{fffd}[2J\u{fffd}b\u{fffd}c"
        );
        assert_eq!(harmless(&"x".repeat(1000)).chars().count(), 201);
        let many: Vec<String> = (0..6).map(|number| number.to_string()).collect();
        assert_eq!(some(&many), "0, 1, 2, 3 and 2 more");
        assert_eq!(some(&many[..4]), "0, 1, 2, 3");
    }
}
