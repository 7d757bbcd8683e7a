//! The filter that selects tunnels and streams, as operators write it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::auth::revocations::{RevokedSubjects, SubjectTag};
use crate::net::stream::Peer;
use crate::observe::series::EndpointSeries;
use crate::protocol::revoked::RevokedCertificates;

/// Selects tunnels, or streams: those that match all of these. An empty filter selects all tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TunnelFilter {
    /// Whether tunnels, streams or both are meant; default: `tunnel`. A stream is a plain request that has lasted
    /// longer than three seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FilterKind>,
    /// Whether plain requests are meant, too, that have not lasted long enough to be streams.
    #[serde(skip)]
    pub with_young_streams: bool,
    /// The tunnel of the session with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<TunnelId>,
    /// Tunnels that this listener accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// Tunnels of this route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Tunnels of this upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Tunnels to this endpoint, by its address or its name as `/v1/upstreams` shows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Tunnels of this client address or network: `203.0.113.7`, `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientNet>,
    /// Tunnels of this subject: of the clients whose identity `auth` has established under this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The hashes of `subject`, by which tunnels know theirs.
    #[serde(skip)]
    pub subject_tags: Vec<SubjectTag>,
    /// Tunnels with one of these client certificates.
    #[serde(skip)]
    pub certificates: Option<Arc<RevokedCertificates>>,
    /// Tunnels whose request named this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Tunnels that have been open for at least this long: `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than: Option<HumanDuration>,
    /// Tunnels on which neither side has sent a byte for at least this long: `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_for: Option<HumanDuration>,
}

impl TunnelFilter {
    /// The names of its fields.
    pub const NAMES: [&str; 11] = [
        "kind",
        "id",
        "listener",
        "route",
        "upstream",
        "endpoint",
        "client",
        "subject",
        "host",
        "older_than",
        "idle_for",
    ];

    /// Whether it means tunnels or streams of this kind.
    pub fn has(&self, kind: SessionKind) -> bool {
        match self.kind.unwrap_or_default() {
            FilterKind::Tunnel => kind == SessionKind::Tunnel,
            FilterKind::Stream => kind == SessionKind::Stream,
            FilterKind::All => true,
        }
    }

    /// Whether it selects all tunnels, or all streams.
    pub fn is_everything(&self) -> bool {
        let means_something =
            |span: &Option<HumanDuration>| span.is_some_and(|span| !span.0.is_zero());
        let narrowed = Self {
            client: self.client.filter(|clients| clients.0.prefix_len() > 0),
            older_than: self
                .older_than
                .filter(|_| means_something(&self.older_than)),
            idle_for: self.idle_for.filter(|_| means_something(&self.idle_for)),
            kind: None,
            with_young_streams: false,
            ..self.clone()
        };
        narrowed == Self::default()
    }

    /// Whether it selects tunnels for what their client is, rather than for where they lead.
    pub fn selects_clients(&self) -> bool {
        let narrows = |clients: ClientNet| clients.0.prefix_len() > 0;
        self.id.is_some() || self.subject.is_some() || self.client.is_some_and(narrows)
    }

    /// Whether it selects this tunnel or stream, of whose kind it is known that it is meant.
    pub fn matches(&self, candidate: &FilteredSession<'_>) -> bool {
        fn fits(wanted: Option<&String>, is: &str) -> bool {
            wanted.is_none_or(|wanted| wanted == is)
        }
        let FilteredSession {
            session,
            client,
            series,
            host,
            age,
            quiet,
            subject,
        } = candidate;
        self.id.is_none_or(|id| id.0 == *session)
            && fits(self.listener.as_ref(), &series.route.listener)
            && fits(self.route.as_ref(), &series.route.route)
            && fits(self.upstream.as_ref(), &series.upstream)
            && fits(self.endpoint.as_ref(), &series.endpoint)
            && fits(self.host.as_ref(), host)
            && self.client.is_none_or(|clients| clients.have(*client))
            && (self.subject.is_none() || self.is_of(*subject))
            && self.older_than.is_none_or(|least| *age >= least.0)
            && self.idle_for.is_none_or(|least| *quiet >= least.0)
    }
}

/// What a filter looks at.
#[derive(Debug)]
pub struct FilteredSession<'a> {
    /// The id of its session.
    pub session: u64,
    /// The client.
    pub client: Peer,
    /// Its listener, route, upstream and endpoint.
    pub series: &'a EndpointSeries,
    /// The host that the request named.
    pub host: &'a str,
    /// How long it has been open.
    pub age: Duration,
    /// How long neither side has sent a byte.
    pub quiet: Duration,
    /// The hash of its subject.
    pub subject: Option<NonZeroU64>,
}

/// What a request has become.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum SessionKind {
    /// A WebSocket tunnel.
    #[default]
    Tunnel,
    /// A plain request that has lasted longer than three seconds.
    Stream,
}

/// The kinds that a filter means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FilterKind {
    /// Tunnels.
    #[default]
    Tunnel,
    /// Streams.
    Stream,
    /// Both.
    All,
}

impl FilterKind {
    /// The plural, in words.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnels",
            Self::Stream => "streams",
            Self::All => "tunnels and streams",
        }
    }
}

impl TunnelFilter {
    fn is_of(&self, subject: Option<NonZeroU64>) -> bool {
        let mut tags = self.subject_tags.iter();
        subject.is_some_and(|subject| tags.any(|tag| tag.get() == subject))
    }

    /// Finds the hashes of `subject`, for each of these authentications.
    pub fn resolve_subject<'a>(
        &mut self,
        revocations: &RevokedSubjects,
        auth: impl Iterator<Item = &'a str>,
    ) {
        if let Some(subject) = &self.subject {
            self.subject_tags = auth.map(|auth| revocations.tag(auth, subject)).collect();
        }
    }
}

/// Writes which tunnels or streams it selects, in words.
impl fmt::Display for TunnelFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(words: &str, value: Option<&dyn fmt::Display>) -> Option<String> {
            value.map(|value| format!("{words} {value}"))
        }
        fn shown<T: fmt::Display>(value: &Option<T>) -> Option<&dyn fmt::Display> {
            value.as_ref().map(|value| value as &dyn fmt::Display)
        }
        let parts = [
            part("with id", shown(&self.id)),
            part("of listener", shown(&self.listener)),
            part("of route", shown(&self.route)),
            part("of upstream", shown(&self.upstream)),
            part("to endpoint", shown(&self.endpoint)),
            part("of client", shown(&self.client)),
            part("of subject", shown(&self.subject)),
            part("for host", shown(&self.host)),
            part("open for at least", shown(&self.older_than)),
            part("without data for at least", shown(&self.idle_for)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let kind = self.kind.unwrap_or_default().plural();
        match parts.is_empty() {
            true => write!(f, "all {kind}"),
            false => write!(f, "{kind} {}", parts.join(", ")),
        }
    }
}

/// Serializes these types as text.
macro_rules! as_text {
    ($($name:ident),+) => { $(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )+ };
}

as_text!(ClientNet, HumanDuration, TunnelId);

/// A client address, or a network of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct ClientNet(pub IpNet);

impl ClientNet {
    fn have(self, peer: Peer) -> bool {
        let ip = peer.ip().map(|ip| ip.to_canonical());
        ip.is_some_and(|ip| self.0.contains(&ip))
    }
}

impl std::str::FromStr for ClientNet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        let net = text.parse().or_else(|_| address());
        net.map(Self).map_err(|_| {
            format!(
                "`{text}` is not a valid address or network; use e.g. `203.0.113.7` or `10.0.0.0/8`"
            )
        })
    }
}

impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A duration, as it is written in the configuration: `90s`, `10m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct HumanDuration(pub Duration);

impl std::str::FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("`{text}` is not a valid duration; use e.g. `90s` or `10m`");
        humantime::parse_duration(text).map(Self).map_err(wrong)
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// The id of a session, as it is written in logs: 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct TunnelId(pub u64);

impl std::str::FromStr for TunnelId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok());
        let wrong = || {
            format!(
                "`{text}` is not a valid id; ids have 16 hexadecimal digits, as in logs and listings"
            )
        };
        number.flatten().map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for TunnelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = r#"{"id":"00000000000000ff","client":"10.0.0.0/8","older_than":"1m 30s"}"#;
        let filter: TunnelFilter = serde_json::from_str(text).unwrap();
        assert_eq!(filter.id, Some(TunnelId(255)));
        assert_eq!(serde_json::to_string(&filter).unwrap(), text);
        assert!(!filter.is_everything());
        assert!(TunnelFilter::default().is_everything());
        let all: TunnelFilter =
            serde_json::from_str(r#"{"client":"0.0.0.0/0","older_than":"0s","kind":"all"}"#)
                .unwrap();
        assert!(all.is_everything());
    }

    #[test]
    fn a_filter_is_shown_in_words() {
        let text = r#"{"route":"chat","client":"10.0.0.0/8","older_than":"10m"}"#;
        let filter: TunnelFilter = serde_json::from_str(text).unwrap();
        let words = "tunnels of route chat, of client 10.0.0.0/8, open for at least 10m";
        assert_eq!(filter.to_string(), words);
        assert_eq!(TunnelFilter::default().to_string(), "all tunnels");
        for (text, words) in [
            (r#"{"kind":"stream"}"#, "all streams"),
            (r#"{"kind":"all"}"#, "all tunnels and streams"),
            (
                r#"{"kind":"stream","route":"chat"}"#,
                "streams of route chat",
            ),
        ] {
            let filter: TunnelFilter = serde_json::from_str(text).unwrap();
            assert_eq!(filter.to_string(), words);
        }
    }

    #[test]
    fn clients_are_selected_by_address_or_id() {
        for (text, expected) in [
            (r#"{"id":"00000000000000ff"}"#, true),
            (r#"{"client":"203.0.113.7","route":"chat"}"#, true),
            (r#"{"client":"0.0.0.0/0"}"#, false),
            (
                r#"{"route":"chat","idle_for":"1h","older_than":"1h"}"#,
                false,
            ),
            ("{}", false),
        ] {
            let filter: TunnelFilter = serde_json::from_str(text).unwrap();
            assert_eq!(filter.selects_clients(), expected, "{text}");
        }
    }

    #[test]
    fn a_slip_never_means_everything() {
        for wrong in [
            r#"{"upsteam":"chat"}"#,
            r#"{"client":"10.0.0"}"#,
            r#"{"older_than":"10"}"#,
            r#"{"id":"ff"}"#,
            r#"{"kind":"streams"}"#,
        ] {
            assert!(
                serde_json::from_str::<TunnelFilter>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn names_are_those_of_the_schema() {
        let schema = schemars::schema_for!(TunnelFilter);
        let properties = schema.get("properties").and_then(|it| it.as_object());
        let mut names: Vec<&str> = properties.unwrap().keys().map(String::as_str).collect();
        let mut known = TunnelFilter::NAMES;
        names.sort_unstable();
        known.sort_unstable();
        assert_eq!(names, known);
    }
}
