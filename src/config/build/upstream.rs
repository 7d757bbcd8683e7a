//! `[upstream.NAME]`.

use std::num::NonZeroU32;

use rustls::pki_types::ServerName;

use super::{Builder, count, duration, is_empty_list, positive};
use crate::config::diagnostic::Diagnostic;
use crate::config::files;
use crate::config::model::{
    Address, Balance, Endpoint, EndpointTls, Roots, SendProxy, Upstream, UpstreamTimeouts,
};
use crate::config::raw::{At, Section, Value};

impl Builder<'_> {
    pub(super) fn upstream(&mut self, name: &At<String>, section: &Section) -> Option<Upstream> {
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
            send_proxy: match section.text("send_proxy").as_deref() {
                Some("v1") => SendProxy::V1,
                Some("v2") => SendProxy::V2,
                _ => SendProxy::Off,
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
            Some(ca) => self.read(&ca, files::roots).map(Roots::Given),
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
        let own = (
            self.file(section, "client_cert"),
            self.file(section, "client_key"),
        );
        let client = match own {
            (None, None) => None,
            (Some(cert), Some(key)) => self.pair(&cert, &key).map(|pair| pair.certified),
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
}

fn endpoint(value: &Value) -> Option<Endpoint> {
    match value {
        Value::Address(address) => Some(Endpoint {
            address: address.clone(),
            weight: NonZeroU32::MIN,
            max_tunnels: None,
        }),
        Value::Section(section) => match &section.written("address")?.value {
            Value::Address(address) => Some(Endpoint {
                address: address.clone(),
                weight: positive(section, "weight").unwrap_or(NonZeroU32::MIN),
                max_tunnels: count(section, "max_tunnels"),
            }),
            _ => None,
        },
        _ => None,
    }
}
