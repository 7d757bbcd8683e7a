//! `[listener.NAME]`.

use std::num::NonZeroU32;
use std::time::SystemTime;

use super::{
    Builder, CertificatePlaces, ListenerPlaces, count, duration, header, is_empty_list, keepalive,
    limit::rate, nets, positive,
};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{
    Bind, ClientAuth, Family, ListenerConfig, ListenerLimits, ListenerTimeouts, ListenerTls, Rate,
    Revocations, TicketKeysFile, TlsPolicy, TlsVersion, Trust,
};
use crate::config::raw::{ConfigValue, Located, Section};

impl Builder<'_> {
    pub(super) fn listener(&mut self, name: &Located<String>, section: &Section) -> ListenerConfig {
        let mut binds = Vec::new();
        let mut places = Vec::new();
        for at in section.list("bind") {
            if let Some(bind) = self.bind(&at) {
                binds.push(bind);
                places.push(at.span);
            }
        }
        if let Some(at) = section.written("bind").filter(is_empty_list) {
            self.error(Code::Value, at, "a listener requires at least one address");
        }
        let span = |section: &Section, name: &str| section.written(name).map(|at| at.span.clone());
        let tls = section.optional("tls").map(|tls| self.listener_tls(&tls));
        let (tls, certificates) = tls.unzip();
        self.places.listeners.push(ListenerPlaces {
            binds: places,
            tls: span(section, "tls"),
            certificates: certificates.unwrap_or_default(),
            may_ask: may_ask(section),
            keepalive: span(section, "keepalive"),
            connections: span(&section.section("limits"), "connections"),
        });
        let timeouts = section.section("timeouts");
        let redirect_to_https = section.bool("redirect_to_https");
        if let Some(at) = section.written("tls").filter(|_| redirect_to_https) {
            let message = "`redirect_to_https` on a listener with TLS would redirect in a loop";
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
            let message = "connections through the unix socket would all be refused: add `unix:`";
            self.error(Code::Unreachable, at, message);
        }
        ListenerConfig {
            name: name.value.as_str().into(),
            binds,
            tls,
            http2: self.http2(section),
            trust,
            redirect_to_https,
            limits: self.listener_limits(&section.section("limits")),
            keepalive: keepalive(section),
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
        let rate = |name: &str| rate(section, name);
        let per_second = positive(section, "handshakes_per_second");
        let default = ListenerLimits::default();
        ListenerLimits {
            connections: count(section, "connections"),
            connections_per_ip: positive(section, "connections_per_ip").map(NonZeroU32::get),
            handshakes: per_second.map(|burst| Rate {
                per_second: f64::from(burst.get()),
                burst,
            }),
            handshakes_per_ip: rate("handshakes_per_ip"),
            requests_per_ip: rate("requests_per_ip"),
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
            if matches!(at.value, ConfigValue::Net(net) if net.is_everybody()) {
                let message = "every peer is trusted to state any client address";
                let hint = "list the addresses of your load balancers";
                self.diagnostics
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
            let message = "every peer may claim any client address in a PROXY header";
            self.diagnostics.push(
                Diagnostic::warning(Code::TrustsEverybody, at.span.clone(), message)
                    .hint("list the addresses of your load balancers in `trusted_proxies`"),
            );
        }
        if let Some(at) = section.written("trusted_header") {
            let message = "`trusted_header` has no effect without `trusted_proxies`";
            self.diagnostics.push(Diagnostic::warning(
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
            revocations: self.revocations(section),
            required: section.text("mode").as_deref() == Some("required"),
            header: header(section, "header"),
        })
    }

    fn revocations(&mut self, section: &Section) -> Revocations {
        let mut revocations = Revocations {
            accept_expired: section.text("expired_crl").as_deref() == Some("warn"),
            ..Revocations::default()
        };
        for file in self.files(section, "crl") {
            let Some(lists) = self.read(&file, files::revocation_lists) else {
                continue;
            };
            if files::has_expired_list(&lists, SystemTime::now()) {
                let effect = match revocations.accept_expired {
                    true => "it still counts",
                    false => "the certificates that it covers are refused",
                };
                let shown = file.value.display();
                let message = format!("a revocation list in `{shown}` has expired: {effect}");
                self.diagnostics
                    .push(Diagnostic::warning(Code::Expired, file.span, message));
            }
            revocations.lists.extend(lists);
            revocations.files.push(file.value);
        }
        // Of several lists of one issuer, the verifier asks the first alone: it has to be the newest.
        revocations
            .lists
            .sort_by_cached_key(files::newest_list_first);
        revocations
    }

    pub(super) fn bind(&mut self, at: &Located<ConfigValue>) -> Option<Bind> {
        let section = match &at.value {
            ConfigValue::Bind(bind) => return Some(bind.clone()),
            ConfigValue::Section(section) => section,
            _ => return None,
        };
        match (
            &section.written("address")?.value,
            section.written("mode").map(|at| &at.value),
        ) {
            (ConfigValue::Bind(Bind::Unix { path, .. }), Some(ConfigValue::Mode(mode))) => {
                Some(Bind::Unix {
                    path: path.clone(),
                    mode: *mode,
                })
            }
            (ConfigValue::Bind(Bind::Tcp(_) | Bind::Systemd(_)), Some(_)) => {
                self.error(Code::Value, at, "`mode` applies to unix sockets only");
                None
            }
            (ConfigValue::Bind(bind), _) => Some(bind.clone()),
            _ => None,
        }
    }

    fn listener_tls(&mut self, section: &Section) -> (ListenerTls, Vec<CertificatePlaces>) {
        let (certificates, places) = self.certificates(section);
        if let Some(at) = section.written("certificates").filter(is_empty_list) {
            self.error(Code::Value, at, "TLS requires at least one certificate");
        }
        let policy = match section.text("policy").as_deref() {
            Some("modern") => TlsPolicy::Modern,
            _ => TlsPolicy::Intermediate,
        };
        if let (Some(at), TlsPolicy::Modern, Some("1.2")) = (
            section.written("min_version"),
            policy,
            section.text("min_version").as_deref(),
        ) {
            let message = "`policy = \"modern\"` is TLS 1.3 only, which contradicts this";
            self.error(Code::Conflict, at, message);
        }
        let min_version = match section.text("min_version").as_deref() {
            _ if policy == TlsPolicy::Modern => TlsVersion::Tls13,
            Some("1.3") => TlsVersion::Tls13,
            _ => TlsVersion::Tls12,
        };
        let tls = ListenerTls {
            certificates,
            policy,
            min_version,
            ticket_keys: self.ticket_keys(section),
            handshakes_at_once: count(section, "handshakes_at_once").unwrap_or(usize::MAX),
            client_auth: section
                .optional("client_auth")
                .and_then(|section| self.client_auth(&section)),
        };
        (tls, places)
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
}

/// Whether a listener asks clients for certificates, or would if its TLS settings were right.
fn may_ask(section: &Section) -> bool {
    let is_broken = section.may_mean(&["tls"]);
    is_broken || section.section("tls").written("client_auth").is_some()
}
