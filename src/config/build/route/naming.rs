//! `route.endpoint`: how requests name the endpoint that they go to.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::endpoint_map::{self, MapError};
use crate::config::files;
use crate::config::model::{
    Discovery, EndpointMap, LeadsTo, NameSource, NamingConfig, RequestKey, Secret, UpstreamConfig,
};
use crate::config::raw::{ConfigValue, Located, Section};

/// The keys that say what names the endpoint.
const SOURCES: [&str; 5] = ["claim", "cookie", "header", "query", "key"];

/// A map that was read.
pub(in crate::config::build) struct KnownEndpointMap {
    file: PathBuf,
    /// What its keys are values of.
    key: RequestKey,
    map: Arc<EndpointMap>,
}

impl Builder<'_> {
    pub(super) fn naming(&mut self, route: &Section, leads_to: &LeadsTo) -> Option<NamingConfig> {
        let Some(section) = route.optional("endpoint") else {
            if route.written("endpoint").is_none() {
                self.refuse_keys(route, "", ["endpoint_fallback"], "without `endpoint`");
            }
            return None;
        };
        let at = route.written("endpoint")?;
        if !leads_to.forwards() {
            return None;
        }
        let (source, value) = self.name_source(at, &section)?;
        let key = match source {
            "key" => self.request_key(value),
            _ => self.named_key_value(source, value),
        }?;
        self.note_nameless(at, leads_to);
        let source = match self.file(&section, "map_file") {
            Some(file) => {
                let why = "together with `map_file`";
                self.refuse_keys(&section, "endpoint.", ["secret_file"], why);
                let map = self.endpoint_map(&file, &key)?;
                NameSource::Map {
                    key,
                    file: file.value,
                    map,
                }
            }
            // A name of a file that is wrong was reported.
            None if section.written("map_file").is_some() => return None,
            None if section.may_mean(&["map_file"]) => return None,
            None => match key {
                RequestKey::Claim(claim) => {
                    self.refuse_keys(&section, "endpoint.", ["secret_file"], "without `cookie`");
                    NameSource::Claim(claim)
                }
                key => self.signed_cookie(value, &section, key, leads_to)?,
            },
        };
        Some(NamingConfig {
            source,
            falls_back: route.text("endpoint_fallback").as_deref() == Some("balance"),
        })
    }

    /// The one key that says what names the endpoint.
    fn name_source<'a>(
        &mut self,
        at: &Located<ConfigValue>,
        section: &'a Section,
    ) -> Option<(&'static str, &'a Located<ConfigValue>)> {
        let mut written = SOURCES
            .into_iter()
            .filter_map(|name| Some((name, section.written(name)?)));
        let Some(first) = written.next() else {
            // A misspelt key, which was reported, may be one of them.
            if !section.may_mean(&SOURCES) {
                let message =
                    "`endpoint` requires one of `claim`, `cookie`, `header`, `query` and `key`";
                self.error(Code::Missing, at, message);
            }
            return None;
        };
        if let Some((other, at)) = written.next() {
            let message = format!("`{}` and `{other}` exclude each other", first.0);
            self.error(Code::Conflict, at, &message);
            return None;
        }
        Some(first)
    }

    /// A cookie that is signed. Everything else that stands in a request is the client's own choice.
    fn signed_cookie(
        &mut self,
        at: &Located<ConfigValue>,
        section: &Section,
        key: RequestKey,
        leads_to: &LeadsTo,
    ) -> Option<NameSource> {
        let RequestKey::Cookie(cookie) = key else {
            let message = "clients choose this value themselves, so they could choose any endpoint";
            let error = Diagnostic::error(Code::Missing, at.span.clone(), message);
            self.diagnostics.push(error.hint(
                "add `map_file`, which says where each value leads, or use a signed cookie: `endpoint = { cookie = \"server\", secret_file = \"server.key\" }`",
            ));
            self.refuse_keys(section, "endpoint.", ["secret_file"], "without `cookie`");
            return None;
        };
        let secret = match self.file(section, "secret_file") {
            Some(file) => {
                self.check_mode(&file);
                self.read(&file, files::signing_secret)?
            }
            None => self.sticky_secret(at, leads_to)?,
        };
        self.check_other_cookies(at, &cookie, leads_to);
        Some(NameSource::SignedCookie { cookie, secret })
    }

    /// The secret with which all upstreams of a route sign their sticky cookies.
    fn sticky_secret(&mut self, at: &Located<ConfigValue>, leads_to: &LeadsTo) -> Option<Secret> {
        let mut secrets: Vec<Option<Secret>> = Vec::new();
        for name in leads_to.upstreams() {
            // One that does not exist, or is wrong, is reported elsewhere.
            let upstream = self.upstreams.iter().find(|it| it.name == *name)?;
            let sticky = upstream.sticky.as_ref();
            secrets.push(sticky.and_then(|sticky| sticky.secret.clone()));
        }
        let first = secrets.first()?.clone();
        let message = match &first {
            Some(first) if secrets.iter().all(|other| other.as_ref() == Some(first)) => {
                return Some(first.clone());
            }
            _ if secrets.len() > 1 => {
                "the upstreams of the route have no common `sticky.secret_file`: without a signature, clients could choose any endpoint"
            }
            _ => {
                "the upstream has no `sticky.secret_file`: without a signature, clients could choose any endpoint"
            }
        };
        let error = Diagnostic::error(Code::Missing, at.span.clone(), message);
        self.diagnostics.push(
            error.hint(
                "add `secret_file` to `endpoint`; create the file with `openssl rand -hex 32`",
            ),
        );
        None
    }

    /// The cookie must not have the name of a sticky cookie: each would replace the other.
    fn check_other_cookies(&mut self, at: &Located<ConfigValue>, cookie: &str, leads_to: &LeadsTo) {
        let is_sticky = |upstream: &&UpstreamConfig| {
            let sticky = upstream.sticky.as_ref();
            sticky.is_some_and(|sticky| *sticky.cookie == *cookie)
        };
        let same = self.upstreams_of(leads_to).find(is_sticky);
        if let Some(name) = same.map(|upstream| &upstream.name) {
            let message = format!("the sticky cookie of `{name}` has the same name, `{cookie}`");
            self.error(Code::Duplicate, at, &message);
        }
    }

    /// Warns if no endpoint of the route can have a name.
    fn note_nameless(&mut self, at: &Located<ConfigValue>, leads_to: &LeadsTo) {
        let may_have_names = |upstream: &UpstreamConfig| match &upstream.discovery {
            Discovery::Listed => upstream.endpoints.iter().any(|it| it.name.is_some()),
            Discovery::Dns { .. } => false,
            Discovery::Srv { .. } | Discovery::File(_) | Discovery::Kubernetes(_) => true,
        };
        let known = self.upstreams_of(leads_to).count();
        let nameless = self.upstreams_of(leads_to).filter(|it| !may_have_names(it));
        if known > 0 && nameless.count() == known {
            let message = "no endpoint of the route has a `name`, so no request can ask for one";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
    }

    /// The upstreams of a route, as far as they exist.
    fn upstreams_of(&self, leads_to: &LeadsTo) -> impl Iterator<Item = &UpstreamConfig> {
        let names = leads_to.upstreams();
        names.filter_map(|name| self.upstreams.iter().find(|it| it.name == *name))
    }

    /// The map in a file; every line that is wrong is reported. Routes with one kind of key share it.
    fn endpoint_map(
        &mut self,
        file: &Located<PathBuf>,
        key: &RequestKey,
    ) -> Option<Arc<EndpointMap>> {
        let is_same = |known: &&KnownEndpointMap| known.file == file.value && known.key == *key;
        if let Some(known) = self.endpoint_maps.iter().find(is_same) {
            return Some(Arc::clone(&known.map));
        }
        let shown = file.value.display().to_string();
        let error = match self.contents(file) {
            Ok(bytes) => match endpoint_map::parse(bytes, key).map(Arc::new) {
                Ok(map) => {
                    self.endpoint_maps.push(KnownEndpointMap {
                        file: file.value.clone(),
                        key: key.clone(),
                        map: Arc::clone(&map),
                    });
                    return Some(map);
                }
                Err(error) => error,
            },
            Err(error) => {
                self.diagnostics.push(error);
                return None;
            }
        };
        let mut report = |message: String| {
            let message = format!("`{shown}`: {message}");
            let error = Diagnostic::error(Code::File, file.span.clone(), message);
            self.diagnostics.push(error);
        };
        match error {
            MapError::Lines(wrong) => {
                for (line, message) in wrong.first {
                    report(format!("line {line}: {message}"));
                }
                if wrong.more > 0 {
                    report(format!("{} more lines are not valid", wrong.more));
                }
            }
            other => report(other.to_string()),
        }
        None
    }
}
