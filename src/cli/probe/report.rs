//! The report of a probe: a row for each step as it ends, or one JSON object.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::{err, out};
use super::leg::{FailedLeg, Findings, ProbeLeg};
use super::url::Url;

/// The report of a probe in progress.
pub(super) struct ProbeReport {
    /// The steps so far, if the report is one JSON object at the end.
    json: Option<Map<String, Value>>,
    url: Box<str>,
    total: Duration,
}

impl ProbeReport {
    pub(super) fn new(url: &Url, json: bool) -> Self {
        Self {
            json: json.then(Map::new),
            url: url.text.clone(),
            total: Duration::ZERO,
        }
    }

    /// Reports one step.
    pub(super) fn leg(&mut self, leg: ProbeLeg, took: Duration, findings: &Findings) {
        self.total += took;
        match &mut self.json {
            Some(legs) => {
                let mut facts = findings.facts.clone();
                facts.insert("seconds".into(), seconds(took));
                legs.insert(leg.name().into(), facts.into());
            }
            None => out(&rows(leg.name(), took, &findings.lines)),
        }
    }

    /// Reports the result.
    pub(super) fn finish(self, failed: Option<&FailedLeg>) {
        let Some(legs) = self.json else {
            if let Some(FailedLeg { leg, failure }) = failed {
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
            "failed": failed.map(|FailedLeg { leg, failure }| json!({
                "leg": leg.name(),
                "error": failure.why,
                "hint": failure.hint,
            })),
        });
        out(&format!("{answer:#}\n"));
    }
}

/// A duration in seconds, to the microsecond.
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
}
