//! Selecting an endpoint: policy, sticky cookie, queue.

use super::super::{Builder, count, duration};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{
    AllDown, Balance, EndpointConfig, HashBy, Picking, QueueConfig, ReportsConfig, SameSite, Sticky,
};
use crate::config::raw::Section;
use crate::config::value;

impl Builder<'_> {
    pub(super) fn picking(&mut self, section: &Section, endpoints: &[EndpointConfig]) -> Picking {
        let balance = match section.text("balance").as_deref() {
            Some("round_robin") => Balance::RoundRobin,
            Some("random") => Balance::Random,
            Some("power_of_two") => Balance::PowerOfTwo,
            Some(_) => Balance::LeastConnections,
            None => self
                .hash(&section.section("balance"))
                .map_or(Balance::LeastConnections, Balance::Hash),
        };
        if let (Some(at), Balance::Hash(_)) = (section.written("slow_start"), &balance) {
            let message =
                "`slow_start` has no effect with `hash`: a key always leads to its endpoint";
            self.diagnostics.push(Diagnostic::warning(
                Code::NoEffect,
                at.span.clone(),
                message,
            ));
        }
        let reports = section.optional("reports");
        let reports = reports.map(|reports| self.reports(section, &reports));
        // A report may have a maximum, too.
        let limited = reports.is_some() || endpoints.iter().any(|each| each.max_tunnels.is_some());
        if let Some(at) = section.written("queue").filter(|_| !limited)
            && !endpoints.is_empty()
        {
            let message = "`queue` has no effect, because no endpoint has `max_tunnels`";
            self.diagnostics.push(Diagnostic::warning(
                Code::NoEffect,
                at.span.clone(),
                message,
            ));
        }
        Picking {
            balance,
            slow_start: section.duration("slow_start"),
            all_down: match section.text("all_down").as_deref() {
                Some("try_any") => AllDown::TryAny,
                _ => AllDown::Refuse,
            },
            queue: section.optional("queue").map(|section| QueueConfig {
                size: count(&section, "size").unwrap_or(1),
                timeout: duration(&section, "timeout"),
            }),
            reports,
        }
    }

    fn reports(&mut self, upstream: &Section, section: &Section) -> ReportsConfig {
        let max_age = duration(section, "max_age");
        let health = upstream
            .written("health")
            .map(|_| upstream.section("health"));
        // A check by TCP has no response that could bring a report.
        let health = health.filter(|health| health.written("tcp").is_none());
        let needed = health.map(|health| {
            let interval = duration(&health, "interval");
            let timeout = duration(&health, "timeout");
            interval.saturating_mul(2).saturating_add(timeout)
        });
        let at = section.written("max_age").or(upstream.written("reports"));
        if let (Some(needed), Some(at)) = (needed, at)
            && max_age < needed
        {
            let message = format!(
                "`max_age` must be at least {}, twice the `interval` of `health` and its `timeout`: a report would be too old before the next one, or after a single check that is lost",
                humantime::format_duration(needed)
            );
            self.error(Code::Value, at, &message);
        }
        ReportsConfig { max_age }
    }

    fn hash(&mut self, section: &Section) -> Option<HashBy> {
        let key = self.request_key(section.written("hash")?)?;
        Some(HashBy {
            key,
            load_factor: section.number("load_factor").unwrap_or(1.0),
        })
    }

    pub(super) fn sticky(&mut self, section: &Section) -> Option<Sticky> {
        let secret = match self.file(section, "secret_file") {
            None => None,
            Some(file) => {
                self.check_mode(&file);
                Some(self.read(&file, files::signing_secret)?)
            }
        };
        let sticky = Sticky {
            cookie: section.text("cookie")?.into(),
            ttl: duration(section, "ttl"),
            domain: self.cookie_domain(section),
            path: section.text("path")?.into(),
            same_site: match section.text("same_site").as_deref() {
                Some("strict") => SameSite::Strict,
                Some("none") => SameSite::None,
                _ => SameSite::Lax,
            },
            partitioned: section.bool("partitioned"),
            secret,
        };
        self.check_browsers_accept(&sticky, section);
        Some(sticky)
    }

    fn cookie_domain(&mut self, section: &Section) -> Option<Box<str>> {
        let text = section.text("domain")?;
        if value::domain(&text).is_ok() && !text.ends_with('.') {
            return Some(text.to_ascii_lowercase().into());
        }
        let message = format!("`{text}` is not a valid cookie domain; use e.g. `example.com`");
        self.error(Code::Value, section.written("domain")?, &message);
        None
    }

    /// Reports attributes with which browsers drop the cookie.
    fn check_browsers_accept(&mut self, sticky: &Sticky, section: &Section) {
        let prefix = sticky.cookie.get(.."__Host-".len());
        let is_host_cookie = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case("__Host-"));
        let beyond = [
            ("domain", sticky.domain.is_some()),
            ("path", *sticky.path != *"/"),
        ];
        for (key, is_set) in beyond {
            if let Some(at) = section.written(key).filter(|_| is_host_cookie && is_set) {
                let message = format!("browsers reject a cookie `__Host-…` with a `{key}`");
                self.error(Code::Conflict, at, &message);
            }
        }
        let is_sent = sticky.same_site == SameSite::None;
        if let Some(at) = section.written("partitioned").filter(|_| !is_sent)
            && sticky.partitioned
        {
            let message = "`partitioned` requires `same_site = \"none\"`: browsers send no other cookie from an embedded page";
            self.error(Code::Conflict, at, message);
        }
    }
}
