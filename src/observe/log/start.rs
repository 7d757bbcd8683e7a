//! Starting the log: its level and format.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
        .with_timer(Timestamp)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_writer(lines.clone());
    let _ = match log.format {
        LogFormat::Text => {
            let lines = builder.fmt_fields(Fields).finish();
            lines.with(targets(log.level)).try_init()
        }
        LogFormat::Json => {
            let lines = builder.json().flatten_event(true).with_current_span(false);
            lines.finish().with(targets(log.level)).try_init()
        }
    };
    Ok(Logging { lines, dropped })
}

/// The time of a line. The one of `tracing-subscriber` looks the same, and takes several times as long to write.
struct Timestamp;

impl FormatTime for Timestamp {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        write!(
            to,
            "{}",
            humantime::format_rfc3339_micros(SystemTime::now().max(UNIX_EPOCH))
        )
    }
}

/// What is logged. A client can have h2 warn with every frame that it sends, so that is for those who debug.
fn targets(of: LogLevel) -> Targets {
    let h2 = match of {
        LogLevel::Error | LogLevel::Warn | LogLevel::Info => LevelFilter::OFF,
        LogLevel::Debug | LogLevel::Trace => level(of),
    };
    Targets::new().with_default(level(of)).with_target("h2", h2)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn a_client_cannot_have_h2_fill_the_log() {
        for (level, is_logged) in [(LogLevel::Info, false), (LogLevel::Debug, true)] {
            let logged = targets(level);
            assert_eq!(
                logged.would_enable("h2::proto::ping_pong", &Level::WARN),
                is_logged
            );
            assert!(logged.would_enable("tidegate::front::http2", &Level::WARN));
        }
    }
}
