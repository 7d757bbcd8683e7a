//! What the page shows: five minutes of points, the last events, and the state of now. Streams read it from where they
//! were.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use crate::cli::operate::live::{LiveTime, milliseconds_now};

/// Points that are remembered: five minutes of them.
const MAX_POINTS: usize = 300;

/// Events that are remembered.
const MAX_EVENTS: usize = 200;

/// The figures of one second. It has no rates without an earlier reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct HistoryPoint {
    /// When.
    #[serde(flatten)]
    pub(super) time: LiveTime,
    /// Live tunnels, in all processes.
    pub(super) tunnels: Option<u64>,
    /// Handshakes per second, whatever their outcome.
    pub(super) handshakes: Option<f64>,
    /// Messages per second, in both directions.
    pub(super) messages: Option<f64>,
    /// Bytes per second, in both directions.
    pub(super) bytes: Option<f64>,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct PageEvent {
    /// When, in milliseconds since 1970.
    pub(super) at: u64,
    /// How it is marked.
    pub(super) kind: EventKind,
    /// What.
    pub(super) text: String,
}

/// How an event is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum EventKind {
    Good,
    Bad,
    Note,
}

/// What a reading adds.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) point: HistoryPoint,
    pub(super) events: Vec<PageEvent>,
    /// The state, as JSON in one line.
    pub(super) state: String,
}

/// What was read lately.
#[derive(Debug, Default)]
struct History {
    /// The number of points that were ever added.
    points_added: u64,
    events_added: u64,
    points: VecDeque<HistoryPoint>,
    events: VecDeque<PageEvent>,
    state: Arc<str>,
}

/// The place of a stream in the history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FeedPosition {
    points: u64,
    events: u64,
}

/// The history, and a signal to the streams that it has grown.
#[derive(Debug)]
pub(super) struct Feed {
    /// Distinguishes this run of the command from others, whose positions mean nothing here.
    run: u64,
    history: Mutex<History>,
    grown: watch::Sender<u64>,
}

impl Feed {
    pub(super) fn new() -> Self {
        Self {
            run: milliseconds_now(),
            history: Mutex::default(),
            grown: watch::Sender::new(0),
        }
    }

    /// Adds a reading, and wakes the streams.
    pub(super) fn add(&self, sample: Sample) {
        let mut history = self.history();
        history.points_added += 1;
        history.points.push_back(sample.point);
        history.events_added += sample.events.len() as u64;
        history.events.extend(sample.events);
        let (points, events) = (history.points.len(), history.events.len());
        history.points.drain(..points.saturating_sub(MAX_POINTS));
        history.events.drain(..events.saturating_sub(MAX_EVENTS));
        history.state = sample.state.into();
        let added = history.points_added;
        drop(history);
        self.grown.send_replace(added);
    }

    /// Is changed when the history grows.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// The position that an event stream names as its last one; the beginning, if it is not one of this run.
    pub(super) fn position(&self, id: &str) -> FeedPosition {
        let mut parts = id.split('-').map(|part| part.parse().ok());
        let (run, points, events) = (parts.next(), parts.next(), parts.next());
        let history = self.history();
        match (run.flatten(), points.flatten(), events.flatten()) {
            (Some(run), Some(points), Some(events))
                if run == self.run
                    && points <= history.points_added
                    && events <= history.events_added =>
            {
                FeedPosition { points, events }
            }
            _ => FeedPosition::default(),
        }
    }

    /// The next event of a stream at `position`, which moves on: everything that was added since, and the state.
    pub(super) fn next(&self, position: &mut FeedPosition) -> String {
        let history = self.history();
        let points = newest(&history.points, history.points_added - position.points);
        let events = newest(&history.events, history.events_added - position.events);
        let text = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
        let (points, events) = (
            text(serde_json::to_string(&points)),
            text(serde_json::to_string(&events)),
        );
        *position = FeedPosition {
            points: history.points_added,
            events: history.events_added,
        };
        format!(
            "id: {}-{}-{}\ndata: {{\"points\":{points},\"events\":{events},\"state\":{}}}\n\n",
            self.run, position.points, position.events, history.state
        )
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last `count` of these, or all.
fn newest<T>(all: &VecDeque<T>, count: u64) -> Vec<&T> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    all.iter().skip(all.len().saturating_sub(count)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn sample(at: u64, events: &[&str]) -> Sample {
        let event = |text: &&str| PageEvent {
            at,
            kind: EventKind::Note,
            text: (*text).to_owned(),
        };
        Sample {
            point: HistoryPoint {
                time: LiveTime { at, running: at },
                ..HistoryPoint::default()
            },
            events: events.iter().map(event).collect(),
            state: format!("{{\"number\":{at}}}"),
        }
    }

    /// The times of the points, the texts of the events, and the number of the state.
    fn read(message: &str) -> (Vec<u64>, Vec<String>, u64) {
        let data = message.lines().find_map(|line| line.strip_prefix("data: "));
        let data: Value = serde_json::from_str(data.unwrap()).unwrap();
        let points = data["points"].as_array().unwrap().iter();
        let events = data["events"].as_array().unwrap().iter();
        (
            points.map(|it| it["at"].as_u64().unwrap()).collect(),
            events
                .map(|it| it["text"].as_str().unwrap().to_owned())
                .collect(),
            data["state"]["number"].as_u64().unwrap(),
        )
    }

    #[test]
    fn a_stream_gets_everything_once_also_after_a_break() {
        let feed = Feed::new();
        feed.add(sample(1, &["a"]));
        feed.add(sample(2, &[]));
        let mut position = FeedPosition::default();
        let message = feed.next(&mut position);
        assert_eq!(read(&message), (vec![1, 2], vec!["a".to_owned()], 2));
        let id = message
            .lines()
            .next()
            .unwrap()
            .strip_prefix("id: ")
            .unwrap();
        feed.add(sample(3, &["b"]));
        feed.add(sample(4, &[]));
        let mut resumed = feed.position(id);
        assert_eq!(resumed, position);
        let message = feed.next(&mut resumed);
        assert_eq!(read(&message), (vec![3, 4], vec!["b".to_owned()], 4));
        assert_eq!(read(&feed.next(&mut resumed)), (vec![], vec![], 4));
        // Positions of another run, of the future, and nonsense.
        let ahead = id.replace("-2-1", "-9-1");
        for other in ["1-1-1", &ahead, "", "x-y-z", "1"] {
            assert_eq!(feed.position(other), FeedPosition::default(), "{other}");
        }
    }

    #[test]
    fn five_minutes_are_remembered() {
        let feed = Feed::new();
        for at in 1..=400 {
            feed.add(sample(at, &["x", "y"]));
        }
        let (points, events, _) = read(&feed.next(&mut FeedPosition::default()));
        assert_eq!((points.len(), points[0], points[299]), (300, 101, 400));
        assert_eq!(events.len(), MAX_EVENTS);
    }
}
