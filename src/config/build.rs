//! Builds the model from the values that were read, and reports what is wrong within single tables.

mod acme;
mod admin;
mod auth;
mod certificate;
mod http2;
mod limit;
mod listener;
mod request_key;
mod route;
mod server;
mod store;
mod traces;
mod upstream;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

pub(super) use self::auth::AuthPlaces;
use self::route::KnownEndpointMap;
pub(super) use self::store::{FleetPlaces, StorePlaces};
use super::diagnostic::{Code, Diagnostic};
use super::files;
use super::input_file::{self, ContentHash, Contents, Input};
use super::model::{AcmeConfig, CertificateConfig, Config, Keepalive, Nets, UpstreamConfig};
use super::raw::{ConfigValue, Located, Section};
use super::sources::{SourceId, Sources, Span};
use super::unreadable;

/// The model, and the places of its parts in the file.
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) places: Places,
    /// Codes of the warnings that are not reported.
    pub(super) allowed: Vec<Code>,
}

/// The places of the model's parts in the file, for diagnostics about several of them.
#[derive(Default)]
pub(super) struct Places {
    /// Whether the file has listeners and routes at all, valid or not.
    pub(super) has_listeners: bool,
    pub(super) has_routes: bool,
    /// The names of all listeners and upstreams in the file, valid or not; `None` if more may be meant.
    pub(super) listener_names: Option<Vec<String>>,
    pub(super) upstream_names: Option<Vec<String>>,
    pub(super) auth_names: Option<Vec<String>>,
    pub(super) limit_names: Option<Vec<String>>,
    pub(super) max_tunnels: Option<Span>,
    pub(super) admin_bind: Option<Span>,
    pub(super) metrics_bind: Option<Span>,
    pub(super) authorities: Vec<AuthorityPlaces>,
    /// The folders that the process writes to.
    pub(super) written_folders: Vec<Located<PathBuf>>,
    pub(super) auth: Vec<AuthPlaces>,
    pub(super) listeners: Vec<ListenerPlaces>,
    pub(super) routes: Vec<RoutePlaces>,
    pub(super) upstreams: Vec<UpstreamPlaces>,
    pub(super) limits: Vec<LimitPlaces>,
    pub(super) store: StorePlaces,
    pub(super) fleet: FleetPlaces,
}

/// The places of the parts of a certificate authority.
pub(super) struct AuthorityPlaces {
    pub(super) name: Span,
    pub(super) challenges: Option<Span>,
}

/// The places of the parts of a listener's certificate.
pub(super) struct CertificatePlaces {
    /// The file, or the list of names.
    pub(super) certificate: Span,
    /// The place of each name, if tidegate obtains the certificate.
    pub(super) names: Vec<Span>,
}

/// The places of a listener's parts.
pub(super) struct ListenerPlaces {
    /// The place of each listen address.
    pub(super) binds: Vec<Span>,
    pub(super) tls: Option<Span>,
    pub(super) certificates: Vec<CertificatePlaces>,
    pub(super) may_ask: bool,
    pub(super) keepalive: Option<Span>,
    pub(super) connections: Option<Span>,
}

/// The places of a route's parts.
pub(super) struct RoutePlaces {
    pub(super) route: Span,
    /// Whether something in the route is wrong, so that what it matches is unknown.
    pub(super) is_flawed: bool,
    pub(super) path: Option<Span>,
    pub(super) name: Option<Span>,
    pub(super) leads_to: Span,
    /// The place of the name of each upstream that it leads to.
    pub(super) upstreams: Vec<Span>,
    pub(super) client_certificate: Option<Span>,
    /// The place of the name of its `auth`, and of what needs one.
    pub(super) auth: Option<Span>,
    pub(super) require: Option<Span>,
    pub(super) listeners: Vec<Span>,
    pub(super) shared_limits: Vec<Span>,
    pub(super) hosts: Vec<Span>,
    pub(super) idle: Option<Span>,
    pub(super) max_age: Option<Span>,
    pub(super) max_age_jitter: Option<Span>,
    /// The place and the value of `ping`, if it is on.
    pub(super) ping: Option<Located<Duration>>,
}

/// The places of a shared limit's parts.
pub(super) struct LimitPlaces {
    pub(super) name: Span,
    pub(super) key: Span,
}

/// The places of an upstream's parts.
pub(super) struct UpstreamPlaces {
    pub(super) name: Span,
    /// The place of each endpoint that the configuration file lists.
    pub(super) endpoints: Vec<Span>,
    pub(super) keepalive: Option<Span>,
    /// The place of the interval or the timeout of health checks, if one is written.
    pub(super) check_times: Option<Span>,
    pub(super) hash: Option<Span>,
    pub(super) sticky: Option<Span>,
    pub(super) cookie_domain: Option<Span>,
    pub(super) http_check: Option<Span>,
    pub(super) on_down: Option<Span>,
    pub(super) kubernetes: Option<Span>,
}

/// Builds the model. A relative file name starts at the folder of the text that it stands in.
pub(super) fn build(root: &Section, sources: &Sources, diagnostics: &mut Vec<Diagnostic>) -> Built {
    let mut builder = Builder {
        sources,
        inputs: BTreeMap::new(),
        authorities: Vec::new(),
        upstreams: Vec::new(),
        endpoint_maps: Vec::new(),
        authority_names: names(root, "acme"),
        places: Places::default(),
        diagnostics,
    };
    let has = |kind: &str| root.has_any(kind) || root.doubtful.contains(&kind);
    builder.places.has_listeners = has("listener");
    builder.places.has_routes = has("route");
    builder.places.listener_names = names(root, "listener");
    builder.places.upstream_names = names(root, "upstream");
    builder.places.auth_names = names(root, "auth");
    builder.places.limit_names = names(root, "limit");
    let store = builder.store(root).map(Arc::new);
    // Before the listeners, whose certificates refer to them.
    let shared = store
        .as_ref()
        .filter(|_| store::shares(root, "certificates"));
    builder.authorities(root, shared);
    let listeners = root
        .named("listener")
        .iter()
        .map(|(name, section)| builder.listener(name, &section.value))
        .collect();
    let auth = root.named("auth").into_iter();
    let auth = auth.filter_map(|(name, section)| builder.auth(&name, &section.value));
    let auth = auth.map(Arc::new).collect();
    // Before the routes, which may sign cookies with a secret of theirs.
    for (name, section) in root.named("upstream") {
        let upstream = builder.upstream(&name, &section.value);
        builder.upstreams.extend(upstream);
    }
    let mut routes = Vec::new();
    for (position, at) in root.list("route").iter().enumerate() {
        if let ConfigValue::Section(section) = &at.value {
            routes.extend(builder.route(position, at, section));
        }
    }
    let limits = builder.shared_limits(root);
    let server = root.section("server");
    let admin = builder.admin(&root.section("admin"));
    let config = Config {
        server: builder.server(&server),
        traces: builder.traces(root),
        store,
        fleet: builder.fleet(root, &admin).map(Arc::new),
        admin,
        acme: builder.authorities,
        auth,
        listeners,
        routes,
        upstreams: builder.upstreams,
        limits,
        inputs: inputs(&builder.inputs),
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
    sources: &'a Sources,
    /// Each file is read once, so that two keys that name it cannot see different contents.
    inputs: BTreeMap<PathBuf, Contents>,
    /// The certificate authorities that were read before the listeners.
    authorities: Vec<Arc<AcmeConfig>>,
    /// The upstreams that were read before the routes.
    upstreams: Vec<UpstreamConfig>,
    /// The maps that were read before, for other routes.
    endpoint_maps: Vec<KnownEndpointMap>,
    /// The names of all authorities, valid or not; `None` if more may be meant.
    authority_names: Option<Vec<String>>,
    places: Places,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    /// A chain and the key that fits it.
    fn pair(
        &mut self,
        cert: &Located<PathBuf>,
        key: &Located<PathBuf>,
    ) -> Option<CertificateConfig> {
        if self.are_swapped(cert, key) {
            return None;
        }
        // Both are read, so that both errors are reported at once.
        let chain = self.read(cert, files::chain);
        let secret = self.read(key, files::private_key);
        if secret.is_some() {
            self.check_mode(key);
        }
        let pair = files::certificate((&cert.value, chain?), (&key.value, secret?));
        let (at, error) = match pair {
            Ok((certificate, doubts)) => {
                for doubt in doubts {
                    let at = cert.span.clone();
                    self.diagnostics
                        .push(Diagnostic::warning(Code::CertificateChain, at, doubt));
                }
                return Some(certificate);
            }
            Err(files::PairError::Cert(error)) => (cert, error),
            Err(files::PairError::Key(error)) => (key, error),
        };
        self.diagnostics
            .push(Diagnostic::error(Code::File, at.span.clone(), error));
        None
    }

    /// Whether the certificate is in the file of the key and the key in that of the certificate, which is
    /// reported.
    fn are_swapped(&mut self, cert: &Located<PathBuf>, key: &Located<PathBuf>) -> bool {
        let holds = |builder: &mut Self, file: &Located<PathBuf>| {
            let contents = builder.contents(file);
            contents.map_or((false, false), |bytes| {
                let has_chain = files::chain(&file.value, bytes).is_ok();
                (has_chain, files::private_key(&file.value, bytes).is_ok())
            })
        };
        let swapped = holds(self, cert) == (false, true) && holds(self, key) == (true, false);
        if swapped {
            let message = format!(
                "certificate and key are swapped: `{}` contains a private key, and `{}` a certificate",
                cert.value.display(),
                key.value.display()
            );
            let error = Diagnostic::error(Code::File, cert.span.clone(), message);
            self.diagnostics
                .push(error.hint("exchange the two file names"));
        }
        swapped
    }

    /// The contents of a file.
    fn contents(&mut self, file: &Located<PathBuf>) -> Result<&[u8], Diagnostic> {
        let path = &file.value;
        let contents = self.inputs.entry(path.clone());
        match contents.or_insert_with(|| input_file::read(path)) {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                let unreadable = unreadable::explain(path, error);
                let message = format!("cannot read `{}`: {}", path.display(), unreadable.why);
                let is_missing = error.kind() == std::io::ErrorKind::NotFound;
                let source = self.sources.get(file.span.source());
                let is_relative = path.is_relative() || path.parent() == Some(source.folder());
                let relative = match file.span.source() {
                    SourceId::MAIN => {
                        "file names are relative to the folder of the configuration file"
                    }
                    _ => "file names are relative to the folder of the file that they stand in",
                };
                let mut error = Diagnostic::error(Code::File, file.span.clone(), message);
                error.hint = unreadable.hint;
                if is_missing && is_relative {
                    error.hint = Some(relative.to_owned());
                }
                Err(error)
            }
        }
    }

    /// Parses the contents of a file with `parse`, and reports what is wrong with them.
    fn read<T>(
        &mut self,
        file: &Located<PathBuf>,
        parse: impl FnOnce(&Path, &[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let error = match self.contents(file) {
            Ok(bytes) => match parse(&file.value, bytes) {
                Ok(held) => return Some(held),
                Err(error) => Diagnostic::error(Code::File, file.span.clone(), error),
            },
            Err(error) => error,
        };
        self.diagnostics.push(error);
        None
    }

    /// Warns about a key that every user of the machine can access.
    fn check_mode(&mut self, key: &Located<PathBuf>) {
        if files::is_open_to_all(&key.value) {
            let shown = key.value.display();
            let message = format!("every user of this machine can read or write `{shown}`");
            self.diagnostics.push(
                Diagnostic::warning(Code::LooseMode, key.span.clone(), message)
                    .hint(format!("chmod o= {shown}")),
            );
        }
    }

    /// The name of a file that the configuration refers to.
    fn file(&mut self, section: &Section, name: &str) -> Option<Located<PathBuf>> {
        let at = section.written(name)?;
        let file = self.file_at(at)?;
        // Read now: a file that is not used in the end is watched, too.
        let _ = self.contents(&file);
        Some(file)
    }

    /// The name of a file, relative to the folder of the file that it is written in.
    fn file_at(&self, at: &Located<ConfigValue>) -> Option<Located<PathBuf>> {
        let ConfigValue::Text(text) = &at.value else {
            return None;
        };
        Some(Located {
            span: at.span.clone(),
            value: self.sources.get(at.span.source()).folder().join(text),
        })
    }

    /// The names of files in a list.
    fn files(&self, section: &Section, name: &str) -> Vec<Located<PathBuf>> {
        let list = section.list(name);
        list.iter().filter_map(|at| self.file_at(at)).collect()
    }

    fn error(&mut self, code: Code, at: &Located<ConfigValue>, message: &str) {
        self.diagnostics
            .push(Diagnostic::error(code, at.span.clone(), message));
    }
}

/// The names of all tables of this kind; `None` if the file may mean more of them than it has.
fn names(root: &Section, kind: &str) -> Option<Vec<String>> {
    if root.doubtful.contains(&kind) {
        return None;
    }
    let written = root.pairs(kind).into_iter();
    Some(written.map(|(name, _)| name.value).collect())
}

/// The files that were read, and the hashes of their contents.
fn inputs(read: &BTreeMap<PathBuf, Contents>) -> Vec<Input> {
    let input = |(path, contents): (&PathBuf, &Contents)| Input {
        path: path.clone(),
        hash: ContentHash::of(contents),
    };
    read.iter().map(input).collect()
}

fn is_empty_list(at: &&Located<ConfigValue>) -> bool {
    matches!(&at.value, ConfigValue::List(list) if list.is_empty())
}

fn nets(section: &Section, name: &str) -> Nets {
    let net = |at: Located<ConfigValue>| match at.value {
        ConfigValue::Net(net) => Some(net),
        _ => None,
    };
    Nets::new(section.list(name).into_iter().filter_map(net).collect())
}

fn header(section: &Section, name: &str) -> Option<HeaderName> {
    match &section.written(name)?.value {
        ConfigValue::Header(name) => Some(name.clone()),
        _ => None,
    }
}

fn texts(list: &[Located<ConfigValue>]) -> Vec<Arc<str>> {
    let text = |at: &Located<ConfigValue>| match &at.value {
        ConfigValue::Text(text) => Some(text.as_str().into()),
        _ => None,
    };
    list.iter().filter_map(text).collect()
}

/// A duration that has a default, because it cannot be "off".
fn duration(section: &Section, name: &str) -> Duration {
    section.duration(name).unwrap_or_default()
}

/// TCP keepalive; `None` for "off".
fn keepalive(section: &Section) -> Option<Keepalive> {
    if section.text("keepalive").is_some() {
        return None;
    }
    let section = section.section("keepalive");
    Some(Keepalive {
        idle: duration(&section, "idle"),
        interval: duration(&section, "interval"),
        count: positive(&section, "count").map_or(1, NonZeroU32::get),
        user_timeout: duration(&section, "user_timeout"),
    })
}

/// A number that is at least 1 by its kind.
fn positive(section: &Section, name: &str) -> Option<NonZeroU32> {
    section
        .integer(name)
        .and_then(|number| NonZeroU32::new(u32::try_from(number).ok()?))
}

/// A number of things, if it is written.
fn count(section: &Section, name: &str) -> Option<usize> {
    usize::try_from(section.integer(name)?).ok()
}
