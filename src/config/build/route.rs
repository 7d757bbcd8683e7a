//! `[[route]]`.

mod destination;
mod kind;
mod literal;
mod naming;
mod probe;

pub(super) use self::naming::KnownEndpointMap;

use std::num::NonZeroU64;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::{Builder, RoutePlaces, count, nets, positive, texts};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    Access, ByteRate, CertificateRule, ClaimRule, Conditions, EndpointHost, HeaderChanges, MaxAge,
    NamePattern, PathMatch, Piece, PingConfig, PlainHttp, RateAction, Rewrite, RouteConfig,
    StreamLimits, Strictness, Template, TunnelLimits, claims_origin, normal_path,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::sources::Span;
use crate::config::value;

impl Builder<'_> {
    pub(super) fn route(
        &mut self,
        position: usize,
        at: &Located<ConfigValue>,
        section: &Section,
    ) -> Option<RouteConfig> {
        let path = self.path(section);
        self.check_prefixes(section);
        self.check_kind(section);
        let destination = self.destination(at, section)?;
        let timeouts = section.section("timeouts");
        let limits = section.section("limits");
        let hosts = valid_values(section, "hosts", |value| match value {
            ConfigValue::Host(host) => Some(host),
            _ => None,
        });
        let route = RouteConfig {
            name: section
                .text("name")
                .unwrap_or_else(|| RouteConfig::name_at(position))
                .into(),
            listeners: listeners(section),
            probe: self.route_probe(section, &hosts, &path),
            hosts,
            conditions: self.conditions(section),
            naming: self.naming(section, &destination.leads_to),
            leads_to: destination.leads_to,
            access: self.access(section),
            rewrite: self.rewrite(section, &path),
            path,
            request_headers: self.header_changes(section, "request_headers"),
            response_headers: self.header_changes(section, "response_headers"),
            compression: section.text("compression").as_deref() != Some("strip"),
            http: plain_http(section),
            handshake: strictness(section),
            endpoint_host: self.endpoint_host(section),
            max_tunnels: count(&limits, "tunnels"),
            shared_limits: texts(&limits.list("shared")).into(),
            max_body: limits.size("body_bytes"),
            limits: tunnel_limits(&timeouts, &limits),
            stream_limits: stream_limits(&timeouts),
        };
        let span = |name: &str| section.written(name).map(|at| at.span.clone());
        let timeout = |name: &str| timeouts.written(name).map(|at| at.span.clone());
        self.places.routes.push(RoutePlaces {
            route: at.span.clone(),
            is_flawed: section.is_flawed,
            path: span("path").or_else(|| span("path_prefix")),
            name: span("name"),
            leads_to: destination.place,
            upstreams: destination.upstreams,
            client_certificate: span("client_certificate")
                .filter(|_| route.access.client_certificate.is_some()),
            auth: span("auth"),
            require: span("require"),
            listeners: spans(section, "listeners", |value| {
                matches!(value, ConfigValue::Text(_))
            }),
            shared_limits: spans(&limits, "shared", |value| {
                matches!(value, ConfigValue::Text(_))
            }),
            hosts: spans(section, "hosts", |value| {
                matches!(value, ConfigValue::Host(_))
            }),
            idle: timeout("idle"),
            max_age: timeout("max_age"),
            max_age_jitter: timeout("max_age_jitter"),
            ping: timeouts.duration("ping").and_then(|value| {
                let span = timeout("ping")?;
                Some(Located { span, value })
            }),
        });
        Some(route)
    }

    fn access(&mut self, section: &Section) -> Access {
        Access {
            allow: nets(section, "allow"),
            deny: nets(section, "deny"),
            origins: valid_values(section, "origins", |value| match value {
                ConfigValue::OriginPattern(origin) => Some(origin),
                _ => None,
            }),
            origins_required: section.bool("origins_required"),
            client_certificate: self.certificate_rule(section),
            auth: section.text("auth").map(Into::into),
            require: self.claim_rules(section),
        }
    }

    /// Which client certificates a route admits: `required` for all that are valid, or a table.
    fn certificate_rule(&mut self, section: &Section) -> Option<CertificateRule> {
        let rule = match &section.written("client_certificate")?.value {
            ConfigValue::Text(word) => {
                return (word == "required").then(CertificateRule::default);
            }
            ConfigValue::Section(rule) => rule,
            _ => return None,
        };
        let mut names = Vec::new();
        for at in rule.list("san") {
            let ConfigValue::Text(name) = &at.value else {
                continue;
            };
            match NamePattern::parse(name) {
                Ok(name) => names.push(name),
                Err(error) => self.error(Code::Value, &at, &error),
            }
        }
        let subjects = texts(&rule.list("subject"));
        Some(CertificateRule {
            names,
            subjects: subjects.iter().map(|subject| (**subject).into()).collect(),
        })
    }

    /// What is required of claims.
    fn claim_rules(&mut self, section: &Section) -> Vec<ClaimRule> {
        let mut rules = Vec::new();
        for (claim, values) in section.pairs("require") {
            let ConfigValue::List(list) = &values.value else {
                continue;
            };
            let listed = texts(list);
            if listed.is_empty() {
                let message = "no value is listed: no client could satisfy this";
                self.error(Code::Value, &values, message);
            }
            rules.push(ClaimRule {
                claim: claim.value.into(),
                values: listed.iter().map(|value| (**value).into()).collect(),
            });
        }
        rules
    }

    fn endpoint_host(&mut self, section: &Section) -> EndpointHost {
        let preserves = section.bool("preserve_host");
        match self.host_header(section) {
            Some(host) => {
                if let Some(at) = section.written("host").filter(|_| !preserves) {
                    let message = "`host` and `preserve_host = false` exclude each other";
                    self.error(Code::Conflict, at, message);
                }
                EndpointHost::Fixed(host)
            }
            None if preserves => EndpointHost::Clients,
            None => EndpointHost::Own,
        }
    }

    fn path(&mut self, section: &Section) -> PathMatch {
        if let (Some(_), Some(prefix)) = (section.written("path"), section.written("path_prefix")) {
            let message = "`path` and `path_prefix` exclude each other";
            self.error(Code::Conflict, prefix, message);
        }
        // Every escape is valid, or `value::path` would have reported the path.
        let normal = |path: &str| normal_path(path).unwrap_or_default().into();
        match (section.text("path"), section.text("path_prefix")) {
            (Some(path), _) => PathMatch::Exact(normal(&path)),
            (None, Some(prefix)) => match prefix.trim_end_matches('/') {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(normal(prefix)),
            },
            (None, None) => PathMatch::Any,
        }
    }

    fn conditions(&mut self, section: &Section) -> Conditions {
        let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for (name, value) in section.pairs("headers") {
            let ConfigValue::Text(text) = &value.value else {
                continue;
            };
            match condition_header(&name.value).and_then(|name| Ok((name, header_value(text)?))) {
                Ok((header, _)) if headers.iter().any(|(other, _)| *other == header) => {
                    self.error_at(Code::Duplicate, &name, "this header is listed twice");
                }
                Ok(condition) => headers.push(condition),
                Err(error) => self.error_at(Code::Value, &name, &error),
            }
        }
        let text = |at: Located<ConfigValue>| match at.value {
            ConfigValue::Text(text) => Some(text.into_boxed_str()),
            _ => None,
        };
        Conditions {
            only: kind::request_kind(section),
            methods: valid_values(section, "methods", |value| match value {
                ConfigValue::Method(method) => Some(method),
                _ => None,
            }),
            headers,
            query: section
                .pairs("query")
                .into_iter()
                .filter_map(|(name, value)| Some((name.value.into(), text(value)?)))
                .collect(),
            subprotocols: section
                .list("subprotocols")
                .into_iter()
                .filter_map(text)
                .collect(),
        }
    }

    fn rewrite(&mut self, section: &Section, path: &PathMatch) -> Rewrite {
        let section = section.section("rewrite");
        let prefix = |name: &str| {
            let text = section.text(name)?;
            let text = text.trim_end_matches('/');
            (!text.is_empty()).then(|| text.into())
        };
        let (strip, add): (Option<Box<str>>, Option<Box<str>>) =
            (prefix("strip_prefix"), prefix("add_prefix"));
        if let (Some(strip), Some(at)) = (&strip, section.written("strip_prefix")) {
            let begin = normal_path(strip).unwrap_or_default();
            let rest = match path {
                PathMatch::Any => None,
                PathMatch::Exact(path) | PathMatch::Prefix(path) => path.strip_prefix(&*begin),
            };
            if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
                let message = "some paths of this route do not begin with this prefix";
                let hint = match path {
                    PathMatch::Any => format!("add `path_prefix = \"{strip}\"` to the route"),
                    PathMatch::Exact(path) | PathMatch::Prefix(path) => {
                        format!("write `{path}`, or whole segments at its beginning")
                    }
                };
                let error = Diagnostic::error(Code::Value, at.span.clone(), message);
                self.diagnostics.push(error.hint(hint));
            }
        }
        if let (None, Some(at)) = (&strip, section.written("restore_prefix")) {
            let message = "`restore_prefix` has no effect without `strip_prefix`";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        Rewrite {
            strip,
            add,
            restore: section.bool("restore_prefix"),
        }
    }

    fn header_changes(&mut self, section: &Section, name: &str) -> HeaderChanges {
        let section = section.section(name);
        let mut changes = HeaderChanges {
            set: Vec::new(),
            remove: valid_values(&section, "remove", |value| match value {
                ConfigValue::Header(name) => Some(name),
                _ => None,
            }),
        };
        for (name, value) in section.pairs("set") {
            let ConfigValue::Template(template) = &value.value else {
                continue;
            };
            match value::header(&name.value) {
                Ok(header) if changes.set.iter().any(|(other, _)| *other == header) => {
                    self.error_at(Code::Duplicate, &name, "this header is listed twice");
                }
                Ok(name) if Self::is_writable(template) => {
                    changes.set.push((name, template.clone()));
                }
                Ok(_) => self.error(Code::Value, &value, "this is not a valid header value"),
                Err(error) => self.error_at(Code::Value, &name, &error),
            }
        }
        changes
    }

    /// Whether the texts of a template may stand in a header.
    fn is_writable(template: &Template) -> bool {
        template.pieces().iter().all(|piece| match piece {
            Piece::Text(text) => HeaderValue::from_str(text).is_ok(),
            Piece::Variable(_) | Piece::Claim(_) => true,
        })
    }

    fn error_at(&mut self, code: Code, at: &Located<String>, message: &str) {
        self.diagnostics
            .push(Diagnostic::error(code, at.span.clone(), message));
    }
}

fn plain_http(section: &Section) -> PlainHttp {
    match section.text("http").as_deref() {
        Some("reject") => PlainHttp::Reject,
        _ => PlainHttp::Proxy,
    }
}

fn strictness(section: &Section) -> Strictness {
    match section.text("handshake").as_deref() {
        Some("lenient") => Strictness::Lenient,
        _ => Strictness::Strict,
    }
}

fn tunnel_limits(timeouts: &Section, limits: &Section) -> TunnelLimits {
    let ping = timeouts.duration("ping").map(|every| PingConfig {
        every,
        pong: timeouts.duration("pong").unwrap_or_default(),
        clients: true,
    });
    TunnelLimits {
        // Pings keep quiet tunnels alive on purpose: closing them as idle would defeat that.
        idle: match (&ping, timeouts.written("idle")) {
            (Some(_), None) => None,
            _ => timeouts.duration("idle"),
        },
        half_closed: timeouts.duration("half_closed"),
        message_bytes: limits.size("message_bytes"),
        messages: positive(limits, "messages_per_second"),
        bytes: byte_rate(limits),
        slow_reader: limits.duration("slow_reader"),
        max_age: max_age(timeouts, "max_age"),
        ping,
    }
}

fn listeners(section: &Section) -> Option<Vec<Arc<str>>> {
    section
        .written("listeners")
        .filter(|at| at.value != ConfigValue::Broken)
        .map(|_| texts(&section.list("listeners")))
}

fn stream_limits(timeouts: &Section) -> StreamLimits {
    StreamLimits {
        idle: timeouts.duration("stream_idle"),
        max_age: max_age(timeouts, "stream_max_age"),
    }
}

fn max_age(timeouts: &Section, name: &'static str) -> Option<MaxAge> {
    timeouts.duration(name).map(|age| MaxAge {
        age,
        jitter: (timeouts.number("max_age_jitter").unwrap_or_default() * 1000.0) as u16,
    })
}

fn byte_rate(limits: &Section) -> Option<ByteRate> {
    let section = limits.optional("bytes_per_second")?;
    Some(ByteRate {
        per_second: NonZeroU64::new(section.size("rate")?)?,
        action: match section.text("action").as_deref() {
            Some("close") => RateAction::Close,
            _ => RateAction::Throttle,
        },
    })
}

/// The valid values of a list.
fn valid_values<T>(
    section: &Section,
    name: &str,
    take: impl Fn(ConfigValue) -> Option<T>,
) -> Vec<T> {
    let list = section.list(name).into_iter();
    list.filter_map(|at| take(at.value)).collect()
}

/// The places of the valid values of a list.
fn spans(section: &Section, name: &str, is_good: impl Fn(&ConfigValue) -> bool) -> Vec<Span> {
    let list = section.list(name).into_iter();
    list.filter(|at| is_good(&at.value))
        .map(|at| at.span)
        .collect()
}

fn condition_header(name: &str) -> Result<HeaderName, String> {
    match name.to_ascii_lowercase().as_str() {
        "host" => Err("use `hosts` to match the host".into()),
        "sec-websocket-protocol" => Err("use `subprotocols` to match subprotocols".into()),
        _ if claims_origin(name) => Err(format!(
            "a route cannot depend on `{name}`, because any client can send it"
        )),
        _ if HeaderName::from_bytes(name.as_bytes()).is_err() => value::header(name),
        _ => value::header(name).map_err(|_| {
            format!("a route cannot depend on `{name}`, which tidegate itself writes")
        }),
    }
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "this is not a valid header value".into())
}
