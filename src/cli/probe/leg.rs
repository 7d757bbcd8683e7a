//! The legs (steps) of a probe, and what each has found.

use std::time::Duration;

use serde_json::{Map, Value};

/// A step of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeLeg {
    Name,
    Connect,
    Tls,
    Handshake,
    Ping,
    Close,
}

impl ProbeLeg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Handshake => "handshake",
            Self::Ping => "ping",
            Self::Close => "close",
        }
    }

    /// What did not happen in time, and a hint.
    fn late(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => (
                "no address",
                "the name server is slow or unreachable; `--resolve ADDRESS` works without it",
            ),
            Self::Connect => (
                "no connection",
                "a firewall may be dropping packets to this address, or no host may be using it",
            ),
            Self::Tls => (
                "no complete TLS handshake",
                "the server may not speak TLS: try ws:// instead of wss://",
            ),
            Self::Handshake => (
                "no response",
                "the server may speak TLS (try wss://), or it may be waiting for a PROXY header or \
                 for its endpoint",
            ),
            Self::Ping => (
                "no Pong",
                "the tunnel is open, but the endpoint does not read, or does not answer Pings \
                 (RFC 6455 section 5.5.2)",
            ),
            Self::Close => (
                "no Close",
                "the endpoint answers Pings, but not a Close (RFC 6455 section 5.5.1)",
            ),
        }
    }
}

/// The result of a step.
pub(super) type LegOutcome<T> = Result<(T, Findings), LegFailure>;

/// The step at which a probe failed.
#[derive(Debug)]
pub(super) struct FailedLeg {
    pub(super) leg: ProbeLeg,
    pub(super) failure: LegFailure,
}

/// Why a step failed.
#[derive(Debug, Default)]
pub(super) struct LegFailure {
    pub(super) why: String,
    /// Advice about the failure.
    pub(super) hint: Option<String>,
    /// What the step found nevertheless.
    pub(super) findings: Findings,
}

impl LegFailure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: None,
            findings: Findings::default().line("failed"),
        }
    }

    /// The step took longer than the time limit.
    pub(super) fn late(leg: ProbeLeg, limit: Duration) -> Self {
        let (what, hint) = leg.late();
        let limit = humantime::format_duration(limit);
        Self::new(format!("{what} within {limit}")).hint(hint)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn findings(mut self, findings: Findings) -> Self {
        self.findings = findings;
        self
    }
}

/// What a step has found, even if it failed.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Lines for people; the first stands beside the name of the step.
    pub(super) lines: Vec<String>,
    /// Fields for programs.
    pub(super) facts: Map<String, Value>,
}

impl Findings {
    /// Adds a line.
    pub(super) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Adds a field.
    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}
