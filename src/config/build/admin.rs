//! `[admin]`.

use super::Builder;
use crate::config::diagnostic::Code;
use crate::config::files;
use crate::config::model::{Admin, Bind, Secret};
use crate::config::raw::{ConfigValue, Located, Section};

impl Builder<'_> {
    pub(super) fn admin(&mut self, section: &Section) -> Admin {
        let metrics_bind = section.written("metrics_bind").cloned();
        self.places.metrics_bind = metrics_bind.as_ref().map(|at| at.span.clone());
        let written = section.written("bind").cloned();
        self.places.admin_bind = written.as_ref().map(|at| at.span.clone());
        Admin {
            is_default: written.is_none(),
            bind: match &written {
                None => Some(Admin::default_bind(section.mode("mode"))),
                Some(at) => self.admin_bind(at, section),
            },
            token: self.token(section),
            metrics_bind: metrics_bind.and_then(|at| self.own_bind(&at)),
        }
    }

    /// A listen address of the admin interface. Sockets that systemd passes are for clients only.
    fn own_bind(&mut self, at: &Located<ConfigValue>) -> Option<Bind> {
        let bind = self.bind(at)?;
        if matches!(bind, Bind::Systemd(_)) {
            self.error(
                Code::Value,
                at,
                "`systemd:` addresses are allowed for listeners only",
            );
            return None;
        }
        Some(bind)
    }

    fn admin_bind(&mut self, at: &Located<ConfigValue>, section: &Section) -> Option<Bind> {
        let mode = section.written("mode");
        match self.own_bind(at)? {
            Bind::Unix { path, .. } => Some(Bind::Unix {
                path,
                mode: section.mode("mode").unwrap_or(Admin::MODE),
            }),
            bind => {
                if let Some(at) = mode {
                    self.error(Code::Value, at, "`mode` applies to unix sockets only");
                }
                Some(bind)
            }
        }
    }

    /// The token for changes over TCP.
    fn token(&mut self, section: &Section) -> Option<Secret> {
        let file = self.file(section, "token_file")?;
        self.check_mode(&file);
        self.read(&file, files::token)
    }
}
