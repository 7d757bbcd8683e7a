//! Who records: a worker's counters, and where the events of sessions are logged.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::counter::Counter;
use super::counters::Counters;
use super::lines::Lines;
use super::record::Shape;
use super::sink::{JOURNAL, Sink};
use crate::config::model::{self, LogFormat, LogTo};

/// What a worker records with.
#[derive(Debug)]
pub struct Recorder {
    /// The worker's counters.
    pub counters: Arc<Counters>,
    /// Where events are logged.
    pub log: Arc<AccessLog>,
}

/// Where the events of sessions are logged, by all workers.
#[derive(Debug)]
pub struct AccessLog {
    target: ArcSwap<Target>,
    dropped: Arc<Counter>,
}

/// Where they are logged now.
#[derive(Debug)]
pub enum Target {
    /// In the log, with everything else.
    Log,
    /// Nowhere.
    Off,
    /// In a log of their own.
    Own(Lines, Shape),
}

/// Why there is nowhere to log to.
#[derive(Debug, thiserror::Error)]
#[error("access log: cannot write to `{to}`: {source}")]
pub struct TargetError {
    to: String,
    #[source]
    source: io::Error,
}

impl Default for AccessLog {
    /// In the log.
    fn default() -> Self {
        Self {
            target: ArcSwap::from_pointee(Target::Log),
            dropped: Arc::default(),
        }
    }
}

impl AccessLog {
    /// Opens what `settings` names; for [`AccessLog::set`], once nothing else can go wrong.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn open(&self, settings: &model::AccessLogConfig) -> Result<Target, TargetError> {
        let sink = match &settings.to {
            LogTo::StandardError => return Ok(Target::Log),
            LogTo::Off => return Ok(Target::Off),
            LogTo::StandardOutput => Ok(Sink::StandardOutput),
            LogTo::Journal => Sink::journal(&PathBuf::from(JOURNAL)),
            LogTo::File(path) => Sink::file(path),
        };
        let shape = match (&settings.to, settings.format) {
            (LogTo::Journal, _) => Shape::Journal,
            (_, LogFormat::Text) => Shape::Text,
            (_, LogFormat::Json) => Shape::Json,
        };
        let lines = sink.and_then(|sink| Lines::start("access log", sink, &self.dropped));
        let lines = lines.map_err(|source| TargetError {
            to: settings.to.to_string(),
            source,
        })?;
        Ok(Target::Own(lines, shape))
    }

    /// Logs there from now on.
    pub fn set(&self, target: Target) {
        self.target.store(Arc::new(target));
    }

    /// Where events are logged.
    pub fn target(&self) -> Guard<Arc<Target>> {
        self.target.load()
    }

    /// Begins the file anew, where it was renamed away.
    pub fn reopen(&self) {
        if let Target::Own(lines, _) = &**self.target() {
            lines.reopen();
        }
    }

    /// Waits until what has happened by now is written; not for ever.
    pub fn flush(&self) {
        if let Target::Own(lines, _) = &**self.target() {
            lines.flush();
        }
    }

    /// Records that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
