//! What is under way: drains, close jobs and older generations, how far each is, and how long it may take.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LiveTime;
use super::older::OlderReading;
use super::reading::Reading;

/// Something that is done when no tunnel is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli::operate) struct Progress {
    /// What it is.
    pub(in crate::cli::operate) name: String,
    /// Tunnels at the beginning, as far as that was seen.
    pub(in crate::cli::operate) from: u64,
    /// Tunnels that are left.
    pub(in crate::cli::operate) left: u64,
    /// Since when it was seen, in milliseconds since 1970.
    pub(in crate::cli::operate) since: u64,
    /// How long the rest takes at this pace, in seconds.
    pub(in crate::cli::operate) seconds_left: Option<u64>,
}

/// What was under way at the last reading.
#[derive(Debug, Default)]
pub(in crate::cli::operate) struct ProgressTracker {
    /// Since when each is seen, and the tunnels that it began with.
    begun: BTreeMap<String, (LiveTime, u64)>,
}

impl ProgressTracker {
    /// What is under way at `now`.
    pub(in crate::cli::operate) fn look(
        &mut self,
        reading: &Reading,
        now: LiveTime,
    ) -> Vec<Progress> {
        let mut found = generations(&reading.older);
        found.extend(jobs(reading));
        found.extend(drains(reading));
        let mut begun = BTreeMap::new();
        let shown = found.into_iter().map(|(name, whole, left)| {
            let (since, from) = *self
                .begun
                .get(&name)
                .unwrap_or(&(now, whole.unwrap_or(left)));
            // It may have grown: a removed endpoint that comes back keeps its name.
            let from = from.max(left);
            begun.insert(name.clone(), (since, from));
            let seconds_left = seconds_left(from, left, now.since(since));
            Progress {
                name,
                from,
                left,
                since: since.at,
                seconds_left,
            }
        });
        let shown = shown.collect();
        self.begun = begun;
        shown
    }
}

/// Name, tunnels at the beginning if known, and tunnels left.
type Found = (String, Option<u64>, u64);

fn generations(older: &[OlderReading]) -> Vec<Found> {
    let older = older.iter().map(|it| {
        let pid = it.info.identity.pid;
        let name = format!("generation {} (process {pid}) drains", it.generation());
        (name, None, it.info.tunnels)
    });
    older.collect()
}

/// The close jobs of all processes.
fn jobs(reading: &Reading) -> Vec<Found> {
    let serving = reading.status.generation;
    let mut found = Vec::new();
    for (generation, _, jobs) in reading.jobs() {
        let of = match generation == serving {
            true => String::new(),
            false => format!(" of generation {generation}"),
        };
        for job in jobs {
            let name = format!("job {}{of} closes: {}", job.job, job.description);
            let left = job.tunnels.saturating_sub(job.done);
            found.push((name, Some(job.tunnels as u64), left as u64));
        }
    }
    found
}

/// Drained endpoints and listeners, and what was removed while it had tunnels.
fn drains(reading: &Reading) -> Vec<Found> {
    let mut found = Vec::new();
    for upstream in &reading.upstreams {
        for endpoint in &upstream.endpoints {
            let is_drained = endpoint.state.is_drained();
            if is_drained {
                let name = endpoint.name.as_deref().unwrap_or(&endpoint.endpoint);
                let name = format!("endpoint {name} of {} is drained", upstream.name);
                let older = reading.older_tunnels_of(&upstream.name, &endpoint.endpoint);
                found.push((name, None, endpoint.tunnels + older));
            }
        }
    }
    for listener in reading.listeners.iter().filter(|it| it.drained) {
        let name = format!("listener {} is drained", listener.name);
        found.push((name, None, listener.tunnels));
    }
    for removed in &reading.status.displaced {
        let name = format!("{} was removed", removed.name);
        found.push((name, None, removed.tunnels));
    }
    found
}

/// How long the rest takes, if it goes on as it did for `elapsed` milliseconds.
fn seconds_left(from: u64, left: u64, elapsed: u64) -> Option<u64> {
    let done = from.saturating_sub(left);
    if done == 0 || elapsed == 0 {
        return None;
    }
    let seconds = left as f64 * (elapsed as f64 / 1e3) / done as f64;
    Some(seconds.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_the_pace_says() {
        assert_eq!(seconds_left(100, 100, 5000), None, "nothing is done yet");
        assert_eq!(seconds_left(100, 50, 5000), Some(5));
        assert_eq!(seconds_left(100, 99, 1000), Some(99));
        assert_eq!(seconds_left(100, 0, 1000), Some(0));
    }
}
