//! From what was written to what is meant: the model, and what is wrong with single tables.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::diagnostic::Diagnostic;
use super::files;
use super::model::{
    Address, Balance, Bind, Certificate, Config, Endpoint, EndpointTls, Listener, ListenerTimeouts,
    ListenerTls, Log, LogFormat, LogLevel, PathMatch, PlainHttp, Roots, Route, Server, Shutdown,
    Strictness, TicketKeysFile, TlsVersion, TunnelLimits, Upstream, UpstreamTimeouts, Watch,
};
use super::raw::{At, Section, Value};

/// The model, and where its parts stand.
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) places: Places,
}

/// Where the parts of the model stand in the file, for what is checked between them.
#[derive(Default)]
pub(super) struct Places {
    /// Whether the file has listeners and routes at all, good or not.
    pub(super) has_listeners: bool,
    pub(super) has_routes: bool,
    /// Of each listener, each of its addresses.
    pub(super) binds: Vec<Vec<std::ops::Range<usize>>>,
    pub(super) routes: Vec<RoutePlaces>,
    pub(super) upstreams: Vec<std::ops::Range<usize>>,
}

/// Where the parts of a route stand.
pub(super) struct RoutePlaces {
    pub(super) route: std::ops::Range<usize>,
    pub(super) name: Option<std::ops::Range<usize>>,
    pub(super) upstream: std::ops::Range<usize>,
    pub(super) listeners: Vec<std::ops::Range<usize>>,
}

/// Builds the model; relative names of files start at `folder`.
pub(super) fn build(root: &Section, folder: &Path, found: &mut Vec<Diagnostic>) -> Built {
    let mut builder = Builder {
        folder,
        inputs: BTreeSet::new(),
        places: Places::default(),
        found,
    };
    builder.places.has_listeners = root.has_any("listener");
    builder.places.has_routes = root.has_any("route");
    let listeners = root
        .named("listener")
        .iter()
        .map(|(name, section)| builder.listener(name, &section.value))
        .collect();
    let mut routes = Vec::new();
    for (position, at) in root.list("route").iter().enumerate() {
        if let Value::Section(section) = &at.value {
            routes.extend(builder.route(position, at, section));
        }
    }
    let upstreams = root
        .named("upstream")
        .iter()
        .filter_map(|(name, section)| builder.upstream(name, &section.value))
        .collect();
    let config = Config {
        server: server(&root.section("server")),
        listeners,
        routes,
        upstreams,
        inputs: builder.inputs.into_iter().collect(),
    };
    Built {
        config,
        places: builder.places,
    }
}

struct Builder<'a> {
    folder: &'a Path,
    inputs: BTreeSet<PathBuf>,
    places: Places,
    found: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    fn listener(&mut self, name: &At<String>, section: &Section) -> Listener {
        let mut binds = Vec::new();
        let mut places = Vec::new();
        for at in section.list("bind") {
            if let Some(bind) = self.bind(&at) {
                binds.push(bind);
                places.push(at.span);
            }
        }
        if let Some(at) = section.written("bind").filter(is_empty_list) {
            self.error("value", at, "a listener needs at least one address");
        }
        self.places.binds.push(places);
        let timeouts = section.section("timeouts");
        Listener {
            name: name.value.as_str().into(),
            binds,
            tls: section.optional("tls").map(|tls| self.listener_tls(&tls)),
            timeouts: ListenerTimeouts {
                tls_handshake: duration(&timeouts, "tls_handshake"),
                request_header: duration(&timeouts, "request_header"),
                keep_alive: duration(&timeouts, "keep_alive"),
                request_body: duration(&timeouts, "request_body"),
            },
        }
    }

    fn bind(&mut self, at: &At<Value>) -> Option<Bind> {
        let section = match &at.value {
            Value::Bind(bind) => return Some(bind.clone()),
            Value::Section(section) => section,
            _ => return None,
        };
        match (
            &section.written("address")?.value,
            section.written("mode").map(|at| &at.value),
        ) {
            (Value::Bind(Bind::Unix { path, .. }), Some(Value::Mode(mode))) => Some(Bind::Unix {
                path: path.clone(),
                mode: *mode,
            }),
            (Value::Bind(Bind::Tcp(_)), Some(_)) => {
                self.error("value", at, "only a unix socket has a mode");
                None
            }
            (Value::Bind(bind), _) => Some(bind.clone()),
            _ => None,
        }
    }

    fn listener_tls(&mut self, section: &Section) -> ListenerTls {
        let mut certificates = Vec::new();
        for at in section.list("certificates") {
            if let Value::Section(pair) = &at.value {
                certificates.extend(self.certificate(pair));
            }
        }
        if let Some(at) = section.written("certificates").filter(is_empty_list) {
            self.error("value", at, "TLS needs at least one certificate");
        }
        let min_version = match section.text("min_version").as_deref() {
            Some("1.3") => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        };
        ListenerTls {
            certificates,
            min_version,
            ticket_keys: self.ticket_keys(section),
        }
    }

    fn ticket_keys(&mut self, section: &Section) -> Option<TicketKeysFile> {
        let file = self.file(section, "ticket_keys_file")?;
        match files::ticket_keys(&file.value) {
            Ok(secrets) => Some(TicketKeysFile {
                path: file.value,
                secrets,
            }),
            Err(wrong) => {
                self.found.push(Diagnostic::error("file", file.span, wrong));
                None
            }
        }
    }

    fn certificate(&mut self, pair: &Section) -> Option<Certificate> {
        let (cert, key) = (self.file(pair, "cert")?, self.file(pair, "key")?);
        let certificate = match files::certificate(&cert.value, &key.value) {
            Ok(certificate) => certificate,
            Err(files::PairError::Cert(wrong)) => {
                self.found.push(Diagnostic::error("file", cert.span, wrong));
                return None;
            }
            Err(files::PairError::Key(wrong)) => {
                self.found.push(Diagnostic::error("file", key.span, wrong));
                return None;
            }
        };
        if certificate.not_after < std::time::SystemTime::now() {
            let message = format!("the certificate in `{}` has expired", cert.value.display());
            self.found
                .push(Diagnostic::warning("expired", cert.span, message));
        }
        Some(certificate)
    }

    /// The name of a file that the configuration is made of.
    fn file(&mut self, section: &Section, name: &str) -> Option<At<PathBuf>> {
        let at = section.written(name)?;
        let Value::Text(text) = &at.value else {
            return None;
        };
        let path = self.folder.join(text);
        self.inputs.insert(path.clone());
        Some(At {
            span: at.span.clone(),
            value: path,
        })
    }

    fn route(&mut self, position: usize, at: &At<Value>, section: &Section) -> Option<Route> {
        let (path, prefix) = (section.written("path"), section.written("path_prefix"));
        if let (Some(_), Some(prefix)) = (path, prefix) {
            self.error(
                "conflict",
                prefix,
                "`path` and `path_prefix` exclude each other",
            );
        }
        let path = match (section.text("path"), section.text("path_prefix")) {
            (Some(path), _) => PathMatch::Exact(path.into()),
            (None, Some(prefix)) => match prefix.trim_end_matches('/') {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(prefix.into()),
            },
            (None, None) => PathMatch::Any,
        };
        let Some(upstream) = section.written("upstream") else {
            if section.written("redirect").is_none() {
                let message = "`upstream` is missing: the route leads nowhere";
                self.found
                    .push(Diagnostic::error("missing", at.span.clone(), message));
            }
            return None;
        };
        let listeners = section
            .written("listeners")
            .filter(|at| at.value != Value::Broken)
            .map(|_| texts(&section.list("listeners")));
        let timeouts = section.section("timeouts");
        let route = Route {
            name: section
                .text("name")
                .unwrap_or_else(|| format!("route-{}", position + 1))
                .into(),
            listeners,
            hosts: section.list("hosts").into_iter().filter_map(host).collect(),
            path,
            upstream: section.text("upstream")?.into(),
            http: match section.text("http").as_deref() {
                Some("reject") => PlainHttp::Reject,
                _ => PlainHttp::Proxy,
            },
            handshake: match section.text("handshake").as_deref() {
                Some("lenient") => Strictness::Lenient,
                _ => Strictness::Strict,
            },
            preserve_host: section.bool("preserve_host"),
            limits: TunnelLimits {
                idle: timeouts.duration("idle"),
                half_closed: timeouts.duration("half_closed"),
                message_bytes: section.section("limits").size("message_bytes"),
            },
        };
        self.places.routes.push(RoutePlaces {
            route: at.span.clone(),
            name: section.written("name").map(|at| at.span.clone()),
            upstream: upstream.span.clone(),
            listeners: section
                .list("listeners")
                .into_iter()
                .filter(|at| matches!(at.value, Value::Text(_)))
                .map(|at| at.span)
                .collect(),
        });
        Some(route)
    }

    fn upstream(&mut self, name: &At<String>, section: &Section) -> Option<Upstream> {
        self.places.upstreams.push(name.span.clone());
        let written = section.written("endpoints");
        let listed = section.list("endpoints");
        if let Some(at) = written.filter(is_empty_list) {
            self.error("value", at, "an upstream needs at least one endpoint");
        }
        let mut endpoints: Vec<Endpoint> = Vec::with_capacity(listed.len());
        for at in &listed {
            let Some(endpoint) = endpoint(&at.value) else {
                continue;
            };
            if endpoints
                .iter()
                .any(|known| known.address == endpoint.address)
            {
                self.error("duplicate", at, "this endpoint is listed twice");
            }
            endpoints.push(endpoint);
        }
        let timeouts = section.section("timeouts");
        let upstream = Upstream {
            name: name.value.as_str().into(),
            tls: section
                .optional("tls")
                .and_then(|tls| self.endpoint_tls(section, &tls, &endpoints)),
            endpoints,
            balance: match section.text("balance").as_deref() {
                Some("round_robin") => Balance::RoundRobin,
                _ => Balance::LeastConnections,
            },
            tries: positive(section, "tries").unwrap_or(NonZeroU32::MIN),
            timeouts: UpstreamTimeouts {
                connect: duration(&timeouts, "connect"),
                handshake: duration(&timeouts, "handshake"),
                response: duration(&timeouts, "response"),
            },
        };
        Some(upstream)
    }

    fn endpoint_tls(
        &mut self,
        upstream: &Section,
        section: &Section,
        endpoints: &[Endpoint],
    ) -> Option<EndpointTls> {
        let roots = match self.file(section, "ca") {
            None => Some(Roots::Platform),
            Some(ca) => match files::authorities(&ca.value) {
                Ok(authorities) => Some(Roots::Given(authorities)),
                Err(wrong) => {
                    self.found.push(Diagnostic::error("file", ca.span, wrong));
                    None
                }
            },
        };
        let mut server_name = None;
        if let (Some(at), Some(name)) =
            (section.written("server_name"), section.text("server_name"))
        {
            match ServerName::try_from(name) {
                Ok(name) => server_name = Some(name),
                Err(_) => self.error("value", at, "this is no name for TLS"),
            }
        }
        let nameless = endpoints
            .iter()
            .any(|each| matches!(each.address, Address::Unix(_)));
        if let Some(at) = upstream
            .written("tls")
            .filter(|_| nameless && server_name.is_none())
        {
            self.error("missing", at, "TLS over a unix socket needs `server_name`");
        }
        let client = match (
            self.file(section, "client_cert"),
            self.file(section, "client_key"),
        ) {
            (None, None) => None,
            (Some(cert), Some(key)) => match files::certificate(&cert.value, &key.value) {
                Ok(certificate) => Some(certificate.certified),
                Err(files::PairError::Cert(wrong)) => {
                    self.found.push(Diagnostic::error("file", cert.span, wrong));
                    None
                }
                Err(files::PairError::Key(wrong)) => {
                    self.found.push(Diagnostic::error("file", key.span, wrong));
                    None
                }
            },
            (Some(one), None) | (None, Some(one)) => {
                let message = "`client_cert` and `client_key` belong together";
                self.found
                    .push(Diagnostic::error("missing", one.span, message));
                None
            }
        };
        Some(EndpointTls {
            roots: roots?,
            server_name,
            client,
        })
    }

    fn error(&mut self, code: &'static str, at: &At<Value>, message: &str) {
        self.found
            .push(Diagnostic::error(code, at.span.clone(), message));
    }
}

fn is_empty_list(at: &&At<Value>) -> bool {
    matches!(&at.value, Value::List(list) if list.is_empty())
}

fn server(section: &Section) -> Server {
    let log = section.section("log");
    let shutdown = section.section("shutdown");
    let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    Server {
        workers: positive(section, "workers")
            .and_then(|workers| workers.try_into().ok())
            .unwrap_or_else(available),
        log: Log {
            level: match log.text("level").as_deref() {
                Some("error") => LogLevel::Error,
                Some("warn") => LogLevel::Warn,
                Some("debug") => LogLevel::Debug,
                Some("trace") => LogLevel::Trace,
                _ => LogLevel::Info,
            },
            format: match log.text("format").as_deref() {
                Some("json") => LogFormat::Json,
                _ => LogFormat::Text,
            },
        },
        shutdown: Shutdown {
            grace: duration(&shutdown, "grace"),
            delay: duration(&shutdown, "delay"),
        },
        watch: match section.text("watch").as_deref() {
            Some("off") => Watch::Off,
            Some("all") => Watch::All,
            _ => Watch::Certificates,
        },
        reason_header: section.bool("reason_header"),
    }
}

fn endpoint(value: &Value) -> Option<Endpoint> {
    match value {
        Value::Address(address) => Some(Endpoint {
            address: address.clone(),
            weight: NonZeroU32::MIN,
        }),
        Value::Section(section) => match &section.written("address")?.value {
            Value::Address(address) => Some(Endpoint {
                address: address.clone(),
                weight: positive(section, "weight").unwrap_or(NonZeroU32::MIN),
            }),
            _ => None,
        },
        _ => None,
    }
}

fn host(at: At<Value>) -> Option<super::model::HostPattern> {
    match at.value {
        Value::Host(host) => Some(host),
        _ => None,
    }
}

fn texts(list: &[At<Value>]) -> Vec<Arc<str>> {
    let text = |at: &At<Value>| match &at.value {
        Value::Text(text) => Some(text.as_str().into()),
        _ => None,
    };
    list.iter().filter_map(text).collect()
}

/// Every duration that cannot be "off" has a default.
fn duration(section: &Section, name: &str) -> Duration {
    section.duration(name).unwrap_or_default()
}

/// A number that its kind has bounded to 1 and more.
fn positive(section: &Section, name: &str) -> Option<NonZeroU32> {
    section
        .integer(name)
        .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
}
