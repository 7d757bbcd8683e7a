//! Builds the model from the values that were read, and reports what is wrong within single tables.

mod admin;
mod listener;
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
use super::model::{CertificateConfig, Config, Nets};
use super::raw::{ConfigValue, Located, Section};

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
    pub(super) max_tunnels: Option<SourceSpan>,
    pub(super) admin_bind: Option<SourceSpan>,
    pub(super) metrics_bind: Option<SourceSpan>,
    pub(super) listeners: Vec<ListenerPlaces>,
    pub(super) routes: Vec<RoutePlaces>,
    pub(super) upstreams: Vec<UpstreamPlaces>,
}

/// A place in the file, in bytes.
type SourceSpan = std::ops::Range<usize>;

/// The places of a listener's parts.
pub(super) struct ListenerPlaces {
    /// The place of each listen address.
    pub(super) binds: Vec<SourceSpan>,
    pub(super) tls: Option<SourceSpan>,
    pub(super) connections: Option<SourceSpan>,
}

/// The places of a route's parts.
pub(super) struct RoutePlaces {
    pub(super) route: SourceSpan,
    pub(super) name: Option<SourceSpan>,
    pub(super) leads_to: SourceSpan,
    pub(super) client_certificate: Option<SourceSpan>,
    pub(super) listeners: Vec<SourceSpan>,
    pub(super) hosts: Vec<SourceSpan>,
    pub(super) idle: Option<SourceSpan>,
    pub(super) max_age: Option<SourceSpan>,
    pub(super) max_age_jitter: Option<SourceSpan>,
    /// The place and the value of `ping`, if it is on.
    pub(super) ping: Option<Located<Duration>>,
}

/// The places of an upstream's parts.
pub(super) struct UpstreamPlaces {
    pub(super) name: SourceSpan,
    pub(super) sticky: Option<SourceSpan>,
    pub(super) http_check: Option<SourceSpan>,
}

/// Builds the model. Relative file names start at `folder`.
pub(super) fn build(root: &Section, folder: &Path, diagnostics: &mut Vec<Diagnostic>) -> Built {
    let mut builder = Builder {
        folder,
        inputs: BTreeSet::new(),
        places: Places::default(),
        diagnostics,
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
        if let ConfigValue::Section(section) = &at.value {
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
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    /// A chain and the key that fits it.
    fn pair(
        &mut self,
        cert: &Located<PathBuf>,
        key: &Located<PathBuf>,
    ) -> Option<CertificateConfig> {
        self.check_mode(key);
        let (at, error) = match files::certificate(&cert.value, &key.value) {
            Ok(certificate) => return Some(certificate),
            Err(files::PairError::Cert(error)) => (cert, error),
            Err(files::PairError::Key(error)) => (key, error),
        };
        self.diagnostics
            .push(Diagnostic::error(Code::File, at.span.clone(), error));
        None
    }

    /// Reads a file with `read`, and reports what is wrong with it.
    fn read<T>(
        &mut self,
        file: &Located<PathBuf>,
        read: impl FnOnce(&Path) -> Result<T, String>,
    ) -> Option<T> {
        let error = match read(&file.value) {
            Ok(held) => return Some(held),
            Err(error) => error,
        };
        self.diagnostics
            .push(Diagnostic::error(Code::File, file.span.clone(), error));
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
        let ConfigValue::Text(text) = &at.value else {
            return None;
        };
        let path = self.folder.join(text);
        self.inputs.insert(path.clone());
        Some(Located {
            span: at.span.clone(),
            value: path,
        })
    }

    fn error(&mut self, code: Code, at: &Located<ConfigValue>, message: &str) {
        self.diagnostics
            .push(Diagnostic::error(code, at.span.clone(), message));
    }
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
