//! Process-wide settings.

use std::num::NonZeroUsize;

use super::{Builder, count, duration, header, positive};
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{
    AccessLogConfig, Log, LogFormat, LogLevel, LogTo, MemoryLimit, ServerConfig, Shutdown,
    Traceparent, UpgradeConfig, WatchedFiles,
};
use crate::config::raw::Section;

impl Builder<'_> {
    pub(super) fn server(&mut self, section: &Section) -> ServerConfig {
        self.places.max_tunnels = section.written("max_tunnels").map(|at| at.span.clone());
        let log = section.section("log");
        let shutdown = section.section("shutdown");
        let upgrade = section.section("upgrade");
        let available = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        ServerConfig {
            workers: positive(section, "workers")
                .and_then(|workers| workers.try_into().ok())
                .unwrap_or_else(available),
            log: Log {
                level: match log.text("level").as_deref() {
                    Some("error") => LogLevel::Error,
                    Some("warn") => LogLevel::Warn,
                    Some("debug") => LogLevel::Debug,
                    Some("trace") => LogLevel::Trace,
                    _ => LogLevel::Info,
                },
                format: format(&log),
            },
            access_log: self.access_log(&section.section("access_log")),
            shutdown: Shutdown {
                grace: duration(&shutdown, "grace"),
                delay: duration(&shutdown, "delay"),
                close_code: shutdown
                    .integer("close_code")
                    .and_then(|code| code.try_into().ok())
                    .unwrap_or(1012),
            },
            watch: match section.text("watch").as_deref() {
                Some("off") => WatchedFiles::Off,
                Some("all") => WatchedFiles::All,
                _ => WatchedFiles::Certificates,
            },
            reason_header: section.bool("reason_header"),
            request_id: header(section, "request_id"),
            traceparent: match section.text("traceparent").as_deref() {
                Some("make") => Traceparent::Make,
                _ => Traceparent::Pass,
            },
            core_dumps: section.bool("core_dumps"),
            max_tunnels: count(section, "max_tunnels"),
            memory: match (section.size("memory"), section.text("memory").as_deref()) {
                (Some(bytes), _) => MemoryLimit::Resident(bytes),
                (None, Some("off")) => MemoryLimit::Off,
                (None, _) => MemoryLimit::Cgroup,
            },
            upgrade: UpgradeConfig {
                max_generations: positive(&upgrade, "max_generations")
                    .map_or(1, |most| most.get() as usize),
                drain: upgrade.duration("drain"),
                settle: upgrade.duration("settle"),
            },
        }
    }

    fn access_log(&mut self, section: &Section) -> AccessLogConfig {
        let to = match section.text("to").as_deref() {
            None | Some("stderr") => LogTo::StandardError,
            Some("stdout") => LogTo::StandardOutput,
            Some("journald") => LogTo::Journal,
            Some("off") => LogTo::Off,
            Some(path) => {
                if let Some(at) = section.written("to").filter(|_| !path.contains('/')) {
                    let message = "expected `stdout`, `stderr`, `journald`, `off` or a path";
                    let hint =
                        format!("for a file next to the configuration file, write `./{path}`");
                    let error = Diagnostic::error(Code::Value, at.span.clone(), message);
                    self.diagnostics.push(error.hint(hint));
                }
                LogTo::File(self.sources.main().folder().join(path))
            }
        };
        let format = format(section);
        let shaped = matches!(to, LogTo::StandardOutput | LogTo::File(_));
        let wanted = section
            .written("format")
            .filter(|_| format == LogFormat::Json);
        if let Some(at) = wanted.filter(|_| !shaped) {
            let message = match to {
                LogTo::StandardError => "on standard error, `server.log.format` applies",
                _ => "`format` has no effect on this destination",
            };
            let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
            self.diagnostics.push(warning);
        }
        AccessLogConfig { to, format }
    }
}

fn format(section: &Section) -> LogFormat {
    match section.text("format").as_deref() {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    }
}
