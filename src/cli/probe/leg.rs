//! The legs of a probe, and what each has shown.

use std::time::Duration;

use serde_json::{Map, Value};

/// A part of the way.
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

    /// What did not come in time, and what may help.
    fn late(self) -> (&'static str, &'static str) {
        match self {
            Self::Name => (
                "no address",
                "the name server is slow or out of reach; `--resolve ADDRESS` does without it",
            ),
            Self::Connect => (
                "no connection",
                "a firewall may drop what is sent there, or the address is nobody's",
            ),
            Self::Tls => (
                "no end of the TLS handshake",
                "whatever listens there may not speak TLS: try ws:// instead of wss://",
            ),
            Self::Handshake => (
                "no answer",
                "whatever listens there may speak TLS (try wss://), or waits for a PROXY header, or \
                 for its endpoint",
            ),
            Self::Ping => (
                "no Pong",
                "the tunnel is open, but the endpoint reads nothing or does not answer Pings \
                 (RFC 6455 section 5.5.2)",
            ),
            Self::Close => (
                "no Close",
                "the endpoint answers Pings, but no Close (RFC 6455 section 5.5.1)",
            ),
        }
    }
}

/// What a leg comes to.
pub(super) type LegOutcome<T> = Result<(T, Findings), LegFailure>;

/// Where a probe ended before its end.
#[derive(Debug)]
pub(super) struct FailedLeg {
    pub(super) leg: ProbeLeg,
    pub(super) failure: LegFailure,
}

/// Why a leg did not lead on.
#[derive(Debug, Default)]
pub(super) struct LegFailure {
    pub(super) why: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
    /// What was seen nevertheless.
    pub(super) told: Findings,
}

impl LegFailure {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            hint: None,
            told: Findings::default().line("failed"),
        }
    }

    /// It took too long.
    pub(super) fn late(leg: ProbeLeg, limit: Duration) -> Self {
        let (what, hint) = leg.late();
        let limit = humantime::format_duration(limit);
        Self::new(format!("{what} within {limit}")).hint(hint)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn told(mut self, told: Findings) -> Self {
        self.told = told;
        self
    }
}

/// What a leg has shown, also where it failed.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// For people; the first beside the name of the leg.
    pub(super) lines: Vec<String>,
    /// For programs.
    pub(super) facts: Map<String, Value>,
}

impl Findings {
    /// Adds a line.
    pub(super) fn line(mut self, line: impl Into<String>) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Adds a fact.
    pub(super) fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.facts.insert(name.to_owned(), value.into());
        self
    }
}
