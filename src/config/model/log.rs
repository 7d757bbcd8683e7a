//! Logging, and traces.

use std::fmt;
use std::path::PathBuf;

/// The log on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// Lines that are less severe than this are not written.
    pub level: LogLevel,
    /// The format of lines.
    pub format: LogFormat,
}

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// The log of session events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// The destination.
    pub to: LogTo,
    /// The format of lines on standard output and in files.
    pub format: LogFormat,
}

/// The destination of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// Standard error, with all other log lines.
    StandardError,
    /// Standard output.
    StandardOutput,
    /// journald, with one field per value.
    Journal,
    /// No destination: events are not logged.
    Off,
    /// The end of a file.
    File(PathBuf),
}

impl fmt::Display for LogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardError => f.write_str("stderr"),
            Self::StandardOutput => f.write_str("stdout"),
            Self::Journal => f.write_str("journald"),
            Self::Off => f.write_str("off"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// What happens to the `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traceparent {
    /// It is forwarded.
    Pass,
    /// It is forwarded; if there is none, a trace is started.
    Make,
}
