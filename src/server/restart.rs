//! Configuration keys that a reload does not change: they take effect at the next start.

use crate::config::model::{Admin, Bind, Config, ServerConfig};

/// The values that the process was started with.
#[derive(Debug)]
pub(super) struct StartedWith {
    server: ServerConfig,
    admin: Admin,
}

impl StartedWith {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            server: config.server.clone(),
            admin: config.admin.clone(),
        }
    }

    /// Whether the admin interface of this process has the address that it is configured to have.
    pub(super) fn has_admin_bind(&self, config: &Config) -> bool {
        address(&self.admin.bind) == address(&config.admin.bind)
    }

    /// The keys whose configured values differ from those in effect until the next start.
    pub(super) fn differs_from(&self, config: &Config) -> Vec<&'static str> {
        let (server, admin) = (&config.server, &config.admin);
        let differ = [
            ("server.workers", self.server.workers != server.workers),
            (
                "server.core_dumps",
                self.server.core_dumps != server.core_dumps,
            ),
            ("server.log", self.server.log != server.log),
            ("admin.bind", !self.has_admin_bind(config)),
            ("admin.mode", mode(&self.admin.bind) != mode(&admin.bind)),
            (
                "admin.metrics_bind",
                self.admin.metrics_bind != admin.metrics_bind,
            ),
        ];
        let differ = differ.into_iter().filter(|(_, differs)| *differs);
        differ.map(|(name, _)| name).collect()
    }
}

fn address(bind: &Option<Bind>) -> Option<String> {
    bind.as_ref().map(ToString::to_string)
}

/// The permission bits of a unix socket.
fn mode(bind: &Option<Bind>) -> Option<u32> {
    match bind {
        Some(Bind::Unix { mode, .. }) => Some(*mode),
        _ => None,
    }
}
