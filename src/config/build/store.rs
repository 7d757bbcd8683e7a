//! `[store]` and `[fleet]`.

use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;

use super::{Builder, is_empty_list, nets, texts};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{
    Admin, Bind, EndpointTls, EtcdConfig, EtcdLogin, FleetConfig, HostPattern, MAX_ENDPOINT_NAME,
    Roots, Secret, SharedThings, StoreConfig, StorePlace, TrustedMembers, is_endpoint_name,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::sources::Span;

/// The longest prefix of keys in etcd, in bytes.
const MAX_PREFIX_BYTES: usize = 256;

/// The most members of etcd that are listed.
const MAX_ETCD_MEMBERS: usize = 16;

/// Where the kernel has the host name.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// The places of `[store]`, valid or not.
#[derive(Default)]
pub(in crate::config) struct StorePlaces {
    /// Of the table.
    pub(in crate::config) table: Option<Span>,
    /// Of its secret.
    pub(in crate::config) secret: Option<Span>,
    /// Of the URLs of etcd.
    pub(in crate::config) endpoints: Option<Span>,
    /// Whether the store is left out of the model because something in it is wrong.
    pub(in crate::config) is_flawed: bool,
}

/// The places of `[fleet]`.
#[derive(Default)]
pub(in crate::config) struct FleetPlaces {
    /// What is shared, and where that is written.
    pub(in crate::config) shared: Vec<(Arc<str>, Span)>,
    /// Of the URL of the admin interface.
    pub(in crate::config) admin_url: Option<Span>,
    /// Of the table.
    pub(in crate::config) table: Option<Span>,
}

impl Builder<'_> {
    /// `[store]`; `None` without it, or if it is flawed.
    pub(super) fn store(&mut self, root: &Section) -> Option<StoreConfig> {
        let table = root.written("store")?;
        let section = root.optional("store")?;
        self.places.store = StorePlaces {
            table: Some(table.span.clone()),
            secret: section.written("secret_file").map(|at| at.span.clone()),
            is_flawed: true,
            ..StorePlaces::default()
        };
        let secrets = match self.file(&section, "secret_file") {
            None => Some(Vec::new()),
            Some(file) => {
                self.check_mode(&file);
                self.read(&file, files::sealing_secrets)
            }
        };
        let place = self.store_place(table, &section);
        let store = StoreConfig {
            place: place?,
            secrets: secrets?,
        };
        self.places.store.is_flawed = section.is_flawed;
        Some(store)
    }

    fn store_place(
        &mut self,
        table: &Located<ConfigValue>,
        section: &Section,
    ) -> Option<StorePlace> {
        match (section.written("etcd"), section.written("files")) {
            (Some(_), Some(files)) => {
                self.error(
                    Code::Conflict,
                    files,
                    "`etcd` and `files` exclude each other",
                );
                None
            }
            (Some(_), None) => {
                let etcd = self.etcd(&section.optional("etcd")?)?;
                Some(StorePlace::Etcd(Arc::new(etcd)))
            }
            (None, Some(at)) => {
                let folder = self.file_at(at)?;
                let path: PathBuf = folder.value.clone();
                self.places.written_folders.push(folder);
                Some(StorePlace::Files(path))
            }
            (None, None) => {
                if !section.may_mean(&["etcd", "files"]) {
                    let message = "the store is nowhere: it requires `etcd` or `files`";
                    let error = Diagnostic::error(Code::Missing, table.span.clone(), message);
                    let hint = "write e.g. `etcd = { endpoints = [\"https://10.0.0.21:2379\"] }`";
                    self.diagnostics.push(error.hint(hint));
                }
                None
            }
        }
    }

    fn etcd(&mut self, section: &Section) -> Option<EtcdConfig> {
        let members = self.etcd_members(section);
        let prefix = self.etcd_prefix(section);
        let login = self.etcd_login(section);
        let tls = section.optional("tls");
        let tls_at = section.written("tls");
        let tls = tls.map(|tls| self.etcd_tls(&tls));
        let members = members?;
        let is_tls = members.first().and_then(Uri::scheme_str) == Some("https");
        if let Some(at) = tls_at.filter(|_| !is_tls) {
            let message = "`tls` has no effect: etcd is asked without TLS";
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        let tls = tls.unwrap_or_else(|| Some(system_tls()))?;
        Some(EtcdConfig {
            members,
            prefix: prefix?,
            login: login?,
            tls: is_tls.then_some(tls),
        })
    }

    /// The URLs of the members.
    fn etcd_members(&mut self, section: &Section) -> Option<Vec<Uri>> {
        let written = section.written("endpoints")?;
        self.places.store.endpoints = Some(written.span.clone());
        if is_empty_list(&written) {
            self.error(Code::Value, written, "etcd requires at least one URL");
            return None;
        }
        let list = section.list("endpoints");
        if list.len() > MAX_ETCD_MEMBERS {
            let message = format!("at most {MAX_ETCD_MEMBERS} URLs of etcd are allowed");
            self.error(Code::Value, written, &message);
            return None;
        }
        let mut members: Vec<Uri> = Vec::new();
        for at in &list {
            let ConfigValue::Text(text) = &at.value else {
                return None;
            };
            let url = match etcd_url(text) {
                Ok(url) => url,
                Err(message) => {
                    self.error(Code::Value, at, message);
                    return None;
                }
            };
            if members.contains(&url) {
                self.error(Code::Duplicate, at, "this URL is in the list already");
                return None;
            }
            let first = members.first();
            if first.is_some_and(|first| first.scheme() != url.scheme()) {
                let message = "all URLs of etcd must have the same scheme: what goes to one by TLS would go to another one in plain text";
                self.error(Code::Conflict, at, message);
                return None;
            }
            members.push(url);
        }
        Some(members)
    }

    fn etcd_prefix(&mut self, section: &Section) -> Option<Box<str>> {
        let prefix = section.text("prefix")?;
        let at = section.written("prefix");
        let is_valid = prefix.len() > 1
            && prefix.len() <= MAX_PREFIX_BYTES
            && prefix.starts_with('/')
            && prefix.ends_with('/')
            && prefix.bytes().all(|b| b.is_ascii_graphic());
        if let Some(at) = at.filter(|_| !is_valid) {
            let message = "a prefix begins and ends with `/`, such as `/tidegate/prod/`, and has visible ASCII characters only";
            self.error(Code::Value, at, message);
            return None;
        }
        Some(prefix.into())
    }

    /// The outer `None` if it is flawed.
    fn etcd_login(&mut self, section: &Section) -> Option<Option<EtcdLogin>> {
        let user = section.text("user");
        let password = self.file(section, "password_file");
        let lone = match (&user, &password) {
            (None, None) => return Some(None),
            (Some(_), None) => section.written("user"),
            (None, Some(_)) => section.written("password_file"),
            (Some(_), Some(_)) => None,
        };
        if let Some(at) = lone {
            if !section.may_mean(&["user", "password_file"]) {
                let message = "`user` and `password_file` require each other";
                self.error(Code::Missing, at, message);
            }
            return None;
        }
        let (user, file) = (user?, password?);
        self.check_mode(&file);
        let password: Secret = self.read(&file, files::password)?;
        Some(Some(EtcdLogin {
            user: user.into(),
            password,
        }))
    }

    fn etcd_tls(&mut self, section: &Section) -> Option<EndpointTls> {
        let roots = match self.file(section, "ca") {
            None => Some(Roots::Platform),
            Some(ca) => self.read(&ca, files::roots).map(Roots::Given),
        };
        let client = self.client_certificate(section);
        Some(EndpointTls {
            roots: roots?,
            client,
            ..system_tls()
        })
    }

    /// `[fleet]`; `None` without it, or if its node has no name.
    pub(super) fn fleet(&mut self, root: &Section, admin: &Admin) -> Option<FleetConfig> {
        let table = root.written("fleet")?;
        let section = root.optional("fleet")?;
        let shared = section.list("share");
        let span = |at: &Located<ConfigValue>| match &at.value {
            ConfigValue::Text(text) => Some((text.as_str().into(), at.span.clone())),
            _ => None,
        };
        self.places.fleet.shared = shared.iter().filter_map(span).collect();
        self.places.fleet.table = Some(table.span.clone());
        let shared = texts(&shared);
        let has = |name: &str| shared.iter().any(|it| **it == *name);
        let access = section.section("admin");
        self.places.fleet.admin_url = access.written("url").map(|at| at.span.clone());
        let given = self.admin_url(&access);
        Some(FleetConfig {
            node: self.node_name(table, &section)?,
            share: SharedThings {
                members: has("members"),
                certificates: has("certificates"),
                keys: has("keys"),
            },
            admin_url: given.or_else(|| reachable_url(admin)),
            trusted: TrustedMembers {
                names: hosts(&access),
                networks: nets(&access, "networks"),
            },
        })
    }

    fn node_name(&mut self, table: &Located<ConfigValue>, section: &Section) -> Option<Arc<str>> {
        if let (Some(at), Some(name)) = (section.written("node"), section.text("node")) {
            if is_endpoint_name(&name) {
                return Some(name.into());
            }
            let message = format!(
                "`{name}` is not a valid name of a node; it must have 1 to {MAX_ENDPOINT_NAME} letters, digits, `.`, `_` and `-`"
            );
            self.error(Code::Value, at, &message);
            return None;
        }
        if section.may_mean(&["node"]) {
            return None;
        }
        let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
        let host = host.trim();
        if is_endpoint_name(host) {
            return Some(host.into());
        }
        let message = format!("the host name `{host}` cannot be the name of a node");
        let error = Diagnostic::error(Code::Missing, table.span.clone(), message);
        self.diagnostics
            .push(error.hint("write e.g. `node = \"edge-1\"`"));
        None
    }

    fn admin_url(&mut self, section: &Section) -> Option<Box<str>> {
        let (at, text) = (section.written("url")?, section.text("url")?);
        let written = text.strip_suffix('/').unwrap_or(&text);
        let url = written.parse::<Uri>().ok().filter(|url| {
            let authority = url.authority().map_or("", |it| it.as_str());
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.port_u16().is_some_and(|port| port != 0)
                && url.host().is_some_and(|host| !host.is_empty())
                && !authority.contains('@')
                && url.path() == "/"
                && url.query().is_none()
        });
        if url.is_none() {
            let message = "expected the URL of this node's admin interface, such as `https://edge-1.internal:9900`";
            self.error(Code::Value, at, message);
            return None;
        }
        Some(written.into())
    }
}

/// TLS that trusts the CA certificates of the operating system.
/// Whether nodes share this.
pub(super) fn shares(root: &Section, what: &str) -> bool {
    let fleet = root.optional("fleet");
    let shared = fleet.map(|fleet| texts(&fleet.list("share")));
    shared.is_some_and(|shared| shared.iter().any(|it| **it == *what))
}

fn system_tls() -> EndpointTls {
    EndpointTls {
        roots: Roots::Platform,
        server_name: None,
        pinned: Vec::new(),
        client: None,
    }
}

/// The URL of a member of etcd.
fn etcd_url(text: &str) -> Result<Uri, &'static str> {
    const FORM: &str = "expected the URL of an etcd member, such as `https://10.0.0.21:2379`";
    let url: Uri = text.parse().map_err(|_| FORM)?;
    let is_known = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_known || url.host().is_none_or(str::is_empty) {
        return Err(FORM);
    }
    if url.authority().is_some_and(|it| it.as_str().contains('@')) {
        return Err("`user` and `password_file` have the user and the password, not the URL");
    }
    if url.path() != "/" || url.query().is_some() {
        return Err("the URL of an etcd member has no path");
    }
    Ok(url)
}

/// The URL of the admin interface, if others can connect to its address.
fn reachable_url(admin: &Admin) -> Option<Box<str>> {
    let Some(Bind::Tcp(address)) = &admin.bind else {
        return None;
    };
    let scheme = if admin.tls.is_some() { "https" } else { "http" };
    let ip = address.ip();
    let is_reachable = !ip.is_unspecified() && !ip.is_loopback() && address.port() != 0;
    is_reachable.then(|| format!("{scheme}://{address}").into())
}

fn hosts(section: &Section) -> Vec<HostPattern> {
    let host = |at: Located<ConfigValue>| match at.value {
        ConfigValue::Host(host) => Some(host),
        _ => None,
    };
    section.list("names").into_iter().filter_map(host).collect()
}
