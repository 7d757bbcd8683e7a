//! `[upstream.NAME]`.

mod health;
mod kubernetes;
mod picking;
mod rebalance;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use super::{Builder, UpstreamPlaces, count, duration, is_empty_list, keepalive, positive, texts};
use crate::config::diagnostic::{Code, Diagnostic, nearest_other};
use crate::config::endpoints_file;
use crate::config::files;
use crate::config::model::{
    Address, CertificateFingerprint, ConnectConfig, Discovery, EndpointConfig, EndpointPhase,
    EndpointTls, Retry, RetryOn, Roots, SendProxy, UpstreamConfig, UpstreamTimeouts,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::value;

impl Builder<'_> {
    /// `host`: the value of a `Host` header.
    pub(super) fn host_header(&mut self, section: &Section) -> Option<Box<str>> {
        let text = section.text("host")?;
        if text
            .parse::<http::uri::Authority>()
            .is_ok_and(|it| !it.as_str().contains('@'))
        {
            return Some(text.into());
        }
        let message = format!(
            "`{text}` is not a valid host; use e.g. `chat.internal` or `chat.internal:9000`"
        );
        self.error(Code::Value, section.written("host")?, &message);
        None
    }

    pub(super) fn upstream(
        &mut self,
        name: &Located<String>,
        section: &Section,
    ) -> Option<UpstreamConfig> {
        let span = |section: &Section, name: &str| section.written(name).map(|at| at.span.clone());
        let health = section.section("health");
        self.places.upstreams.push(UpstreamPlaces {
            name: name.span.clone(),
            endpoints: Vec::new(),
            keepalive: span(section, "keepalive"),
            check_times: span(&health, "interval").or_else(|| span(&health, "timeout")),
            hash: span(&section.section("balance"), "hash"),
            sticky: span(section, "sticky"),
            cookie_domain: span(&section.section("sticky"), "domain"),
            http_check: span(&health, "http"),
            on_down: span(section, "on_down"),
            kubernetes: span(section, "kubernetes"),
        });
        let (discovery, endpoints) = self.endpoints(name, section);
        let picking = self.picking(section, &endpoints);
        let upstream = UpstreamConfig {
            name: name.value.as_str().into(),
            rebalance: self.rebalance(section, &picking),
            picking,
            sticky: section
                .optional("sticky")
                .and_then(|sticky| self.sticky(&sticky)),
            retry: retry(section),
            health: section
                .written("health")
                .filter(|at| at.value != ConfigValue::Broken)
                .and_then(|at| self.health(at, &section.section("health"))),
            ejection: section
                .optional("ejection")
                .map(|section| self.ejection(&section)),
            on_down: self.displacement(section, "on_down"),
            on_removed: self.displacement(section, "on_removed"),
            on_drain: self.displacement(section, "on_drain"),
            reach: self.reach(section, &discovery, &endpoints),
            timeouts: timeouts(&section.section("timeouts")),
            max_header_lines: count(&section.section("limits"), "header_count").unwrap_or(1),
            discovery,
            endpoints,
        };
        Some(upstream)
    }

    fn endpoints(
        &mut self,
        name: &Located<String>,
        section: &Section,
    ) -> (Discovery, Vec<EndpointConfig>) {
        const ORIGINS: [&str; 5] = ["endpoints", "dns", "srv", "kubernetes", "endpoints_file"];
        let written: Vec<&str> = ORIGINS
            .into_iter()
            .filter(|key| section.written(key).is_some())
            .collect();
        match written.as_slice() {
            // A misspelt key, which was reported, may be one of them.
            [] if section.may_mean(&ORIGINS) => {}
            [] => {
                let message = "the upstream has no endpoints";
                let error = Diagnostic::error(Code::Missing, name.span.clone(), message);
                let hint = self.instead_of_endpoints(&name.value);
                self.diagnostics.push(error.hint(hint));
            }
            [_] => {}
            [first, .., last] => {
                if let Some(at) = section.written(last) {
                    let message = format!("`{first}` and `{last}` exclude each other");
                    self.error(Code::Conflict, at, &message);
                }
            }
        }
        // The list is read even if another source excludes it, so that its mistakes are reported, too.
        let mut endpoints = self.listed(section);
        let discovery = if let Some(dns) = section.optional("dns") {
            Discovery::Dns {
                name: self.looked_up(&dns),
                port: port(&dns).unwrap_or_default(),
                server: socket(&dns),
            }
        } else if let Some(srv) = section.optional("srv") {
            Discovery::Srv {
                name: self.looked_up(&srv),
                server: socket(&srv),
            }
        } else if let Some(service) = section.optional("kubernetes") {
            Discovery::Kubernetes(self.kubernetes_service(&service))
        } else if let Some(file) = self.file(section, "endpoints_file") {
            let parse = |path: &Path, bytes: &[u8]| {
                let held = endpoints_file::parse(bytes);
                held.map_err(|error| format!("`{}`: {error}", path.display()))
            };
            endpoints = self.read(&file, parse).unwrap_or_default();
            Discovery::File(file.value)
        } else {
            Discovery::Listed
        };
        (discovery, endpoints)
    }

    /// What an upstream without endpoints may need: a table of another one may have its name misspelt.
    fn instead_of_endpoints(&self, name: &str) -> String {
        let names = self.places.upstream_names.as_deref().unwrap_or_default();
        match nearest_other(name, names.iter().map(String::as_str)) {
            Some(near) => format!(
                "add one of `endpoints`, `dns`, `srv`, `kubernetes` and `endpoints_file`; or did you mean `{near}`?"
            ),
            None => {
                "add one of `endpoints`, `dns`, `srv`, `kubernetes` and `endpoints_file`".to_owned()
            }
        }
    }

    /// The DNS name of a lookup.
    fn looked_up(&mut self, section: &Section) -> Box<str> {
        let Some(name) = section.text("name") else {
            return Box::default();
        };
        if let (Err(error), Some(at)) = (value::domain(&name), section.written("name")) {
            self.error(Code::Value, at, &error);
        }
        name.into()
    }

    fn listed(&mut self, section: &Section) -> Vec<EndpointConfig> {
        let listed = section.list("endpoints");
        if let Some(at) = section.written("endpoints").filter(is_empty_list) {
            self.error(
                Code::Value,
                at,
                "an upstream requires at least one endpoint",
            );
        }
        let mut endpoints: Vec<EndpointConfig> = Vec::with_capacity(listed.len());
        let mut places = Vec::with_capacity(listed.len());
        let mut seen = HashSet::with_capacity(listed.len());
        let mut names = HashSet::new();
        for at in &listed {
            let Some(endpoint) = self.listed_endpoint(&at.value) else {
                continue;
            };
            if let (ConfigValue::Section(section), Some(name)) = (&at.value, &endpoint.name)
                && !names.insert(name.clone())
                && let Some(at) = section.written("name")
            {
                let message = format!("another endpoint already has the name `{name}`");
                self.error(Code::Duplicate, at, &message);
            }
            if !seen.insert(endpoint.address.clone()) {
                self.error(Code::Duplicate, at, "this endpoint is listed twice");
            }
            endpoints.push(endpoint);
            places.push(at.span.clone());
        }
        if let Some(upstream) = self.places.upstreams.last_mut() {
            upstream.endpoints = places;
        }
        endpoints
    }

    fn listed_endpoint(&mut self, value: &ConfigValue) -> Option<EndpointConfig> {
        let section = match value {
            ConfigValue::Address(address) => return Some(EndpointConfig::at(address.clone())),
            ConfigValue::Section(section) => section,
            _ => return None,
        };
        let ConfigValue::Address(address) = &section.written("address")?.value else {
            return None;
        };
        let weight = section.integer("weight");
        Some(EndpointConfig {
            address: address.clone(),
            host: None,
            name: self.endpoint_name(section),
            weight: weight
                .and_then(|weight| u32::try_from(weight).ok())
                .unwrap_or(1),
            max_tunnels: count(section, "max_tunnels"),
            drain: section.bool("drain"),
            backup: section.bool("backup"),
            phase: EndpointPhase::Ready,
        })
    }

    fn endpoint_name(&mut self, section: &Section) -> Option<Box<str>> {
        let text = section.text("name")?;
        match value::endpoint_name(&text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.error(Code::Value, section.written("name")?, &error);
                None
            }
        }
    }

    fn reach(
        &mut self,
        section: &Section,
        discovery: &Discovery,
        endpoints: &[EndpointConfig],
    ) -> ConnectConfig {
        let tls = section.optional("tls");
        let ip = |at: Located<ConfigValue>| match at.value {
            ConfigValue::Ip(address) => Some(address),
            _ => None,
        };
        ConnectConfig {
            tls: tls.and_then(|tls| self.endpoint_tls(section, &tls, discovery, endpoints)),
            send_proxy: match section.text("send_proxy").as_deref() {
                Some("v1") => SendProxy::V1,
                Some("v2") => SendProxy::V2,
                _ => SendProxy::Off,
            },
            reuse: section.text("reuse").as_deref() != Some("off"),
            sources: section.list("source").into_iter().filter_map(ip).collect(),
            keepalive: keepalive(section),
        }
    }

    fn endpoint_tls(
        &mut self,
        upstream: &Section,
        section: &Section,
        discovery: &Discovery,
        endpoints: &[EndpointConfig],
    ) -> Option<EndpointTls> {
        let roots = match self.file(section, "ca") {
            None => Some(Roots::Platform),
            Some(ca) => self.read(&ca, files::roots).map(Roots::Given),
        };
        let mut server_name = None;
        if let (Some(at), Some(name)) =
            (section.written("server_name"), section.text("server_name"))
        {
            match ServerName::try_from(name) {
                Ok(name) => server_name = Some(name),
                Err(_) => self.error(Code::Value, at, "this is not a valid TLS server name"),
            }
        }
        let nameless = endpoints
            .iter()
            .any(|each| matches!(each.address, Address::Unix(_)));
        if let Some(at) = upstream.written("tls").filter(|_| server_name.is_none()) {
            if nameless {
                self.error(
                    Code::Missing,
                    at,
                    "TLS over a unix socket requires `server_name`",
                );
            } else if matches!(discovery, Discovery::Srv { .. }) {
                let message = "TLS to the targets of SRV records requires `server_name`";
                self.error(Code::Missing, at, message);
            } else if matches!(discovery, Discovery::Kubernetes(_)) {
                let message = "TLS to the pods of a Service requires `server_name`";
                self.error(Code::Missing, at, message);
            } else if let Discovery::Dns { name, .. } = discovery {
                // Endpoints are addresses then, and certificates are issued for the name.
                server_name = ServerName::try_from(name.to_string()).ok();
            }
        }
        let client = self.client_certificate(section);
        Some(EndpointTls {
            roots: roots?,
            server_name,
            pinned: self.fingerprints(section),
            client,
        })
    }

    /// The certificate that tidegate presents to others.
    pub(in crate::config::build) fn client_certificate(
        &mut self,
        section: &Section,
    ) -> Option<Arc<CertifiedKey>> {
        let own = (
            self.file(section, "client_cert"),
            self.file(section, "client_key"),
        );
        match own {
            (None, None) => None,
            (Some(cert), Some(key)) => self.pair(&cert, &key).map(|pair| pair.certified),
            (Some(one), None) | (None, Some(one)) => {
                let message = "`client_cert` and `client_key` require each other";
                self.diagnostics
                    .push(Diagnostic::error(Code::Missing, one.span, message));
                None
            }
        }
    }
}

impl Builder<'_> {
    /// The certificates of endpoints that are pinned.
    fn fingerprints(&mut self, section: &Section) -> Vec<CertificateFingerprint> {
        let mut pinned = Vec::new();
        for at in section.list("fingerprint") {
            let ConfigValue::Text(text) = &at.value else {
                continue;
            };
            match CertificateFingerprint::parse(text) {
                Some(fingerprint) => pinned.push(fingerprint),
                None => self.error(
                    Code::Value,
                    &at,
                    "a fingerprint has 64 hexadecimal digits (SHA-256), with or without colons",
                ),
            }
        }
        if let (Some(at), false) = (section.written("ca"), pinned.is_empty()) {
            let message =
                "`ca` and `fingerprint` exclude each other: a pinned certificate needs no CA";
            self.error(Code::Conflict, at, message);
        }
        pinned
    }
}

fn port(section: &Section) -> Option<u16> {
    u16::try_from(section.integer("port")?).ok()
}

fn socket(section: &Section) -> Option<SocketAddr> {
    match &section.written("server")?.value {
        ConfigValue::Socket(address) => Some(*address),
        _ => None,
    }
}

fn retry(section: &Section) -> Retry {
    let written = texts(&section.list("retry_on"));
    Retry {
        tries: positive(section, "tries").unwrap_or(NonZeroU32::MIN),
        on: RetryOn {
            statuses: written
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            closed: written.iter().any(|text| **text == *"closed"),
            timeout: written.iter().any(|text| **text == *"timeout"),
        },
    }
}

fn timeouts(section: &Section) -> UpstreamTimeouts {
    UpstreamTimeouts {
        connect: duration(section, "connect"),
        handshake: duration(section, "handshake"),
        response: duration(section, "response"),
        body: section.duration("body"),
    }
}
