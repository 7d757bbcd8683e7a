//! Starting the log: its level and format.

use std::io;
use std::sync::Arc;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use super::fields::Fields;
use super::sink::Sink;
use super::writer::Lines;
use crate::config::model::{Log, LogFormat, LogLevel};
use crate::observe::counter::Counter;

/// The running log. Dropping it writes the last lines.
#[derive(Debug)]
#[must_use]
pub struct Logging {
    lines: Lines,
    dropped: Arc<Counter>,
}

impl Logging {
    /// The number of lines dropped since the start.
    pub fn dropped(&self) -> &Arc<Counter> {
        &self.dropped
    }

    /// The queue of its lines.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Starts logging to standard error. A second call, or one after the program has set its own
/// subscriber, changes nothing.
///
/// # Errors
/// When the thread that writes cannot be started.
pub fn start(log: Log) -> io::Result<Logging> {
    let dropped = Arc::default();
    let lines = Lines::start("log", Sink::StandardError, &dropped)?;
    let builder = fmt()
        .with_max_level(level(log.level))
        .with_target(false)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(lines.clone());
    let _ = match log.format {
        LogFormat::Text => builder.fmt_fields(Fields).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    Ok(Logging { lines, dropped })
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
