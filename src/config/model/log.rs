//! Where the events of sessions are logged, and what traces are made of them.

use std::fmt;
use std::path::PathBuf;

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// Severity of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Where the events of sessions are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessLogConfig {
    /// Where.
    pub to: LogTo,
    /// The shape of its lines, where it has some of its own.
    pub format: LogFormat,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTo {
    /// With everything else.
    StandardError,
    /// To standard output.
    StandardOutput,
    /// To journald, each value in a field of its own.
    Journal,
    /// Nowhere.
    Off,
    /// To the end of a file.
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

/// What becomes of the field that says which trace a request is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traceparent {
    /// It is passed on.
    Pass,
    /// The same; where there is none, a trace begins here.
    Make,
}
