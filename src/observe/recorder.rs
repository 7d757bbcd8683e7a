//! What a worker records with: its counters, and the log of session events.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::counter::Counter;
use super::counters::Counters;
use super::log::record::RecordFormat;
use super::log::sink::{JOURNAL, Sink};
use super::log::writer::Lines;
use crate::config::model::{self, LogFormat, LogTo};
use crate::traces::queue::SpanQueue;

/// What a worker records with.
#[derive(Debug)]
pub struct Recorder {
    /// The worker's counters.
    pub counters: Arc<Counters>,
    /// The log of session events.
    pub log: Arc<AccessLog>,
    /// Where finished spans go.
    pub spans: Arc<SpanQueue>,
}

/// The log of session events, shared by all workers.
#[derive(Debug)]
pub struct AccessLog {
    target: ArcSwap<AccessLogTarget>,
    dropped: Arc<Counter>,
}

/// Where session events are logged.
#[derive(Debug)]
pub enum AccessLogTarget {
    /// In the log, with everything else.
    Log,
    /// Nowhere.
    Off,
    /// In a separate access log.
    Own(Lines, RecordFormat),
}

/// Why the access log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("access log: cannot write to `{to}`: {source}")]
pub struct AccessLogError {
    to: String,
    #[source]
    source: io::Error,
}

impl Default for AccessLog {
    /// Events go to the log.
    fn default() -> Self {
        Self {
            target: ArcSwap::from_pointee(AccessLogTarget::Log),
            dropped: Arc::default(),
        }
    }
}

impl AccessLog {
    /// Opens the target that `settings` name. It is for [`AccessLog::set`], once nothing else of a
    /// reload can fail.
    ///
    /// # Errors
    /// [`AccessLogError`].
    pub fn open(
        &self,
        settings: &model::AccessLogConfig,
    ) -> Result<AccessLogTarget, AccessLogError> {
        let sink = match &settings.to {
            LogTo::StandardError => return Ok(AccessLogTarget::Log),
            LogTo::Off => return Ok(AccessLogTarget::Off),
            LogTo::StandardOutput => Ok(Sink::StandardOutput),
            LogTo::Journal => Sink::journal(&PathBuf::from(JOURNAL)),
            LogTo::File(path) => Sink::file(path),
        };
        let format = match (&settings.to, settings.format) {
            (LogTo::Journal, _) => RecordFormat::Journal,
            (_, LogFormat::Text) => RecordFormat::Text,
            (_, LogFormat::Json) => RecordFormat::Json,
        };
        let lines = sink.and_then(|sink| Lines::start("access log", sink, &self.dropped));
        let lines = lines.map_err(|source| AccessLogError {
            to: settings.to.to_string(),
            source,
        })?;
        Ok(AccessLogTarget::Own(lines, format))
    }

    /// Switches to this target.
    pub fn set(&self, target: AccessLogTarget) {
        self.target.store(Arc::new(target));
    }

    /// The current target.
    pub fn target(&self) -> Guard<Arc<AccessLogTarget>> {
        self.target.load()
    }

    /// Has the file reopened, for log rotation. Returns whether there is one.
    pub fn reopen(&self) -> bool {
        match &**self.target() {
            AccessLogTarget::Own(lines, _) => lines.reopen(),
            AccessLogTarget::Log | AccessLogTarget::Off => false,
        }
    }

    /// Waits until everything up to now is written, but not forever.
    pub fn flush(&self) {
        if let AccessLogTarget::Own(lines, _) = &**self.target() {
            lines.flush();
        }
    }

    /// Records that were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }
}
