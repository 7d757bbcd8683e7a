//! Where log lines go, and in what shape.

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;

use crate::config::model::{Log, LogFormat, LogLevel};

/// Begins to log to standard error. A second call, or one after the program has set up its own
/// subscriber, changes nothing.
pub fn start(log: Log) {
    let builder = fmt()
        .with_max_level(level(log.level))
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
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
