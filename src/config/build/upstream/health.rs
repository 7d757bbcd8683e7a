//! Taking endpoints out of rotation (health checks, ejection), and what happens to their tunnels.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::super::{Builder, duration, positive, texts};
use crate::config::diagnostic::Code;
use crate::config::model::{
    CloseOrder, ClosePace, DisplacementPolicy, Ejection, Health, HttpProbe, Probe, WebSocketProbe,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::value;

/// The time over which `drain` closes tunnels if neither `rate` nor `over` is written.
const DEFAULT_OVER: Duration = Duration::from_secs(60);

impl Builder<'_> {
    pub(super) fn health(
        &mut self,
        at: &Located<ConfigValue>,
        section: &Section,
    ) -> Option<Health> {
        let probe = match (
            section.optional("websocket"),
            section.optional("http"),
            section.optional("tcp"),
        ) {
            (Some(section), None, None) => {
                let path = self.probe_path(&section);
                Probe::WebSocket(self.websocket_probe(&section, path)?)
            }
            (None, Some(section), None) => Probe::Http(self.http_probe(&section)?),
            (None, None, Some(_)) => Probe::Tcp,
            _ => {
                let message = "a health check must be exactly one of `websocket`, `http` and `tcp`";
                self.error(Code::Value, at, message);
                return None;
            }
        };
        let (interval, timeout) = (duration(section, "interval"), duration(section, "timeout"));
        Some(Health {
            probe,
            interval,
            timeout,
            rise: positive(section, "rise")?.get(),
            fall: positive(section, "fall")?.get(),
        })
    }

    /// A handshake with this path, if it is valid.
    pub(in crate::config::build) fn websocket_probe(
        &mut self,
        section: &Section,
        path: Option<Box<str>>,
    ) -> Option<WebSocketProbe> {
        let origin = section.written("origin").and_then(|at| match &at.value {
            ConfigValue::Origin(origin) => Some(origin.clone()),
            _ => None,
        });
        let mut headers = Vec::new();
        for (name, value) in section.pairs("headers") {
            let ConfigValue::Text(text) = &value.value else {
                continue;
            };
            let known: Result<HeaderName, String> = value::header(&name.value);
            match (known, HeaderValue::from_str(text)) {
                (Ok(name), Ok(text)) => headers.push((name, text)),
                (Err(error), _) => self.error(Code::Value, &value, &error),
                (_, Err(_)) => self.error(Code::Value, &value, "this is not a valid header value"),
            }
        }
        let host = self.host_header(section);
        Some(WebSocketProbe {
            path: path?,
            host,
            origin,
            subprotocols: texts(&section.list("subprotocols"))
                .iter()
                .map(|name| Box::from(&**name))
                .collect(),
            headers,
            ping: section.bool("ping"),
        })
    }

    fn http_probe(&mut self, section: &Section) -> Option<HttpProbe> {
        let expect = match value::statuses(&section.text("expect")?) {
            Ok(expect) => expect,
            Err(error) => {
                self.error(Code::Value, section.written("expect")?, &error);
                return None;
            }
        };
        Some(HttpProbe {
            path: self.probe_path(section)?,
            host: self.host_header(section),
            expect,
        })
    }

    /// Path and query, as they are sent.
    pub(in crate::config::build) fn probe_path(&mut self, section: &Section) -> Option<Box<str>> {
        let text = section.text("path")?;
        if value::is_sendable_path(&text) {
            return Some(text.into());
        }
        let message =
            format!("`{text}` is not a valid path; use e.g. `/health` or `/health?full=1`");
        self.error(Code::Value, section.written("path")?, &message);
        None
    }

    /// `on_down`, `on_removed` or `on_drain`.
    pub(super) fn displacement(&mut self, section: &Section, name: &str) -> DisplacementPolicy {
        let Some(section) = section.optional(name) else {
            return DisplacementPolicy::Keep;
        };
        let (rate, over) = (section.rate("rate"), section.duration("over"));
        if let (Some(_), Some(_), Some(at)) = (rate, over, section.written("over")) {
            self.error(Code::Conflict, at, "`rate` and `over` exclude each other");
        }
        let order = match section.text("order").as_deref() {
            Some("random") => CloseOrder::Random,
            _ => CloseOrder::Oldest,
        };
        match section.text("action").as_deref() {
            Some("close") => DisplacementPolicy::Close,
            Some("drain") => {
                let over = || ClosePace::Over(over.unwrap_or(DEFAULT_OVER));
                DisplacementPolicy::Drain(rate.map_or_else(over, ClosePace::PerSecond), order)
            }
            _ => DisplacementPolicy::Keep,
        }
    }

    pub(super) fn ejection(&mut self, section: &Section) -> Ejection {
        let (base, ceiling) = (duration(section, "base"), duration(section, "ceiling"));
        if let Some(at) = section.written("ceiling").or(section.written("base"))
            && ceiling < base
        {
            self.error(Code::Value, at, "`ceiling` must not be less than `base`");
        }
        Ejection {
            failures: positive(section, "failures").map_or(1, std::num::NonZeroU32::get),
            window: duration(section, "window"),
            base,
            ceiling,
            max_share: section.number("max_share").unwrap_or_default(),
        }
    }
}
