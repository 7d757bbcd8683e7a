//! From what was written to what is meant: the model, and what is wrong with single tables.

mod admin;
mod route;
mod server;
mod upstream;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::diagnostic::{Code, Diagnostic};
use super::files;
use super::model::{
    Bind, Certificate, ClientAuth, Config, Family, Listener, ListenerLimits, ListenerTimeouts,
    ListenerTls, Nets, Rate, TicketKeysFile, TlsVersion, Trust,
};
use super::raw::{At, Section, Value};

/// The model, and where its parts stand.
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) places: Places,
    /// What need not be warned about.
    pub(super) allowed: Vec<Code>,
}

/// Where the parts of the model stand in the file, for what is checked between them.
#[derive(Default)]
pub(super) struct Places {
    /// Whether the file has listeners and routes at all, good or not.
    pub(super) has_listeners: bool,
    pub(super) has_routes: bool,
    pub(super) max_tunnels: Option<Span>,
    pub(super) admin_bind: Option<Span>,
    pub(super) metrics_bind: Option<Span>,
    pub(super) listeners: Vec<ListenerPlaces>,
    pub(super) routes: Vec<RoutePlaces>,
    pub(super) upstreams: Vec<UpstreamPlaces>,
}

/// Where something stands in the file, in bytes.
type Span = std::ops::Range<usize>;

/// Where the parts of a listener stand.
pub(super) struct ListenerPlaces {
    /// Each of its addresses.
    pub(super) binds: Vec<Span>,
    pub(super) tls: Option<Span>,
    pub(super) connections: Option<Span>,
}

/// Where the parts of a route stand.
pub(super) struct RoutePlaces {
    pub(super) route: Span,
    pub(super) name: Option<Span>,
    pub(super) leads_to: Span,
    pub(super) client_certificate: Option<Span>,
    pub(super) listeners: Vec<Span>,
    pub(super) hosts: Vec<Span>,
    pub(super) idle: Option<Span>,
    pub(super) max_age: Option<Span>,
    pub(super) max_age_jitter: Option<Span>,
    /// If it is on. The model does not have it as long as it is not in effect.
    pub(super) ping: Option<At<Duration>>,
}

/// Where the parts of an upstream stand.
pub(super) struct UpstreamPlaces {
    pub(super) name: Span,
    pub(super) sticky: Option<Span>,
    pub(super) http_check: Option<Span>,
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
    let server = root.section("server");
    let config = Config {
        server: builder.server(&server),
        admin: builder.admin(&root.section("admin")),
        listeners,
        routes,
        upstreams,
        inputs: builder.inputs.into_iter().collect(),
    };
    Built {
        config,
        places: builder.places,
        allowed: texts(&server.list("allow_warnings"))
            .iter()
            .filter_map(|token| Code::of_warning(token))
            .collect(),
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
            self.error(Code::Value, at, "a listener needs at least one address");
        }
        let span = |section: &Section, name: &str| section.written(name).map(|at| at.span.clone());
        self.places.listeners.push(ListenerPlaces {
            binds: places,
            tls: span(section, "tls"),
            connections: span(&section.section("limits"), "connections"),
        });
        let timeouts = section.section("timeouts");
        let redirect_to_https = section.bool("redirect_to_https");
        if let Some(at) = section.written("tls").filter(|_| redirect_to_https) {
            let message =
                "`redirect_to_https` is for listeners without TLS: here it would go round";
            self.error(Code::Conflict, at, message);
        }
        let trust = self.trust(section);
        let unix = binds.iter().any(|bind| matches!(bind, Bind::Unix { .. }));
        if let Some(at) = section.written("trusted_proxies")
            && trust.proxy_protocol
            && unix
            && !trust.proxies.is_empty()
            && !trust.proxies.contain(None)
        {
            let message = "nobody comes in through the unix socket: add `unix:`";
            self.error(Code::Unreachable, at, message);
        }
        Listener {
            name: name.value.as_str().into(),
            binds,
            tls: section.optional("tls").map(|tls| self.listener_tls(&tls)),
            trust,
            redirect_to_https,
            limits: self.listener_limits(&section.section("limits")),
            timeouts: ListenerTimeouts {
                tls_handshake: duration(&timeouts, "tls_handshake"),
                request_header: duration(&timeouts, "request_header"),
                keep_alive: duration(&timeouts, "keep_alive"),
                request_body: duration(&timeouts, "request_body"),
                response_body: duration(&timeouts, "response_body"),
            },
        }
    }

    fn listener_limits(&mut self, section: &Section) -> ListenerLimits {
        const BYTES: std::ops::RangeInclusive<u64> = 1024..=1024 * 1024;
        let per_ip = section.optional("handshakes_per_ip");
        let per_ip = per_ip.and_then(|section| {
            Some(Rate {
                per_second: section.rate("rate")?,
                burst: positive(&section, "burst")?,
            })
        });
        let per_second = positive(section, "handshakes_per_second");
        if let Some(at) = section.written("header_bytes")
            && !section
                .size("header_bytes")
                .is_some_and(|size| BYTES.contains(&size))
        {
            self.error(Code::Value, at, "a head has 1KiB to 1MiB");
        }
        let default = ListenerLimits::default();
        ListenerLimits {
            connections: count(section, "connections"),
            connections_per_ip: positive(section, "connections_per_ip").map(NonZeroU32::get),
            handshakes: per_second.map(|burst| Rate {
                per_second: f64::from(burst.get()),
                burst,
            }),
            handshakes_per_ip: per_ip,
            header_bytes: section
                .size("header_bytes")
                .and_then(|size| usize::try_from(size).ok())
                .unwrap_or(default.header_bytes),
            header_count: count(section, "header_count").unwrap_or(default.header_count),
        }
    }

    fn trust(&mut self, section: &Section) -> Trust {
        let trust = Trust {
            proxies: nets(section, "trusted_proxies"),
            family: match section.text("trusted_header").as_deref() {
                Some("forwarded") => Family::Forwarded,
                _ => Family::XForwarded,
            },
            proxy_protocol: section.text("proxy_protocol").as_deref() == Some("required"),
        };
        for at in section.list("trusted_proxies") {
            if matches!(at.value, Value::Net(net) if net.is_everybody()) {
                let message = "everybody is trusted to say who they are";
                let hint = "list the addresses of your load balancers";
                self.found
                    .push(Diagnostic::warning(Code::TrustsEverybody, at.span, message).hint(hint));
            }
        }
        if !trust.proxies.is_empty() {
            return trust;
        }
        if let Some(at) = section
            .written("proxy_protocol")
            .filter(|_| trust.proxy_protocol)
        {
            let message = "whoever connects may claim any address in a PROXY header";
            self.found.push(
                Diagnostic::warning(Code::TrustsEverybody, at.span.clone(), message)
                    .hint("list the addresses of your load balancers in `trusted_proxies`"),
            );
        }
        if let Some(at) = section.written("trusted_header") {
            let message = "no forwarding header is believed without `trusted_proxies`";
            self.found.push(Diagnostic::warning(
                Code::NoEffect,
                at.span.clone(),
                message,
            ));
        }
        trust
    }

    fn client_auth(&mut self, section: &Section) -> Option<ClientAuth> {
        let ca = self.file(section, "ca")?;
        let authorities = self.read(&ca, files::roots)?;
        Some(ClientAuth {
            ca: ca.value,
            authorities,
            required: section.text("mode").as_deref() == Some("required"),
            header: header(section, "header"),
        })
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
            (Value::Bind(Bind::Tcp(_) | Bind::Systemd(_)), Some(_)) => {
                self.error(Code::Value, at, "only a unix socket has a mode");
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
            self.error(Code::Value, at, "TLS needs at least one certificate");
        }
        let min_version = match section.text("min_version").as_deref() {
            Some("1.3") => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        };
        ListenerTls {
            certificates,
            min_version,
            ticket_keys: self.ticket_keys(section),
            handshakes_at_once: count(section, "handshakes_at_once").unwrap_or(usize::MAX),
            client_auth: section
                .optional("client_auth")
                .and_then(|section| self.client_auth(&section)),
        }
    }

    fn ticket_keys(&mut self, section: &Section) -> Option<TicketKeysFile> {
        let file = self.file(section, "ticket_keys_file")?;
        self.check_mode(&file);
        let secrets = self.read(&file, files::ticket_keys)?;
        Some(TicketKeysFile {
            path: file.value,
            secrets,
        })
    }

    fn certificate(&mut self, section: &Section) -> Option<Certificate> {
        let (cert, key) = (self.file(section, "cert")?, self.file(section, "key")?);
        let certificate = self.pair(&cert, &key)?;
        if certificate.not_after < std::time::SystemTime::now() {
            let message = format!("the certificate in `{}` has expired", cert.value.display());
            self.found
                .push(Diagnostic::warning(Code::Expired, cert.span, message));
        }
        Some(certificate)
    }

    /// A chain and the key that fits it.
    fn pair(&mut self, cert: &At<PathBuf>, key: &At<PathBuf>) -> Option<Certificate> {
        self.check_mode(key);
        let (at, wrong) = match files::certificate(&cert.value, &key.value) {
            Ok(certificate) => return Some(certificate),
            Err(files::PairError::Cert(wrong)) => (cert, wrong),
            Err(files::PairError::Key(wrong)) => (key, wrong),
        };
        self.found
            .push(Diagnostic::error(Code::File, at.span.clone(), wrong));
        None
    }

    /// What a file holds, or what is wrong with it.
    fn read<T>(
        &mut self,
        file: &At<PathBuf>,
        read: impl FnOnce(&Path) -> Result<T, String>,
    ) -> Option<T> {
        let wrong = match read(&file.value) {
            Ok(held) => return Some(held),
            Err(wrong) => wrong,
        };
        self.found
            .push(Diagnostic::error(Code::File, file.span.clone(), wrong));
        None
    }

    /// A key is nobody else's business.
    fn check_mode(&mut self, key: &At<PathBuf>) {
        if files::is_open_to_all(&key.value) {
            let shown = key.value.display();
            let message = format!("every user of this machine can get at `{shown}`");
            self.found.push(
                Diagnostic::warning(Code::LooseMode, key.span.clone(), message)
                    .hint(format!("chmod o= {shown}")),
            );
        }
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

    fn error(&mut self, code: Code, at: &At<Value>, message: &str) {
        self.found
            .push(Diagnostic::error(code, at.span.clone(), message));
    }
}

fn is_empty_list(at: &&At<Value>) -> bool {
    matches!(&at.value, Value::List(list) if list.is_empty())
}

fn nets(section: &Section, name: &str) -> Nets {
    let net = |at: At<Value>| match at.value {
        Value::Net(net) => Some(net),
        _ => None,
    };
    Nets::new(section.list(name).into_iter().filter_map(net).collect())
}

fn header(section: &Section, name: &str) -> Option<HeaderName> {
    match &section.written(name)?.value {
        Value::Header(name) => Some(name.clone()),
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

/// A number of things, if there is one.
fn count(section: &Section, name: &str) -> Option<usize> {
    usize::try_from(section.integer(name)?).ok()
}
