//! `[admin]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{Admin, AdminAccess, AdminRole, AdminToken, Bind};
use crate::config::raw::{ConfigValue, Located, Section};

/// The name of the token in `token_file`.
const TOKEN_FILE: &str = "token_file";

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
            access: AdminAccess {
                tokens: self.tokens(section),
                is_reading_open: section.text("read").as_deref() == Some("open"),
            },
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

    /// The tokens for requests over TCP.
    fn tokens(&mut self, section: &Section) -> Vec<AdminToken> {
        let mut tokens: Vec<AdminToken> = Vec::new();
        if let Some(file) = self.file(section, "token_file") {
            tokens.extend(self.token(TOKEN_FILE.into(), AdminRole::All, &file));
        }
        for at in section.list("tokens") {
            let ConfigValue::Section(section) = &at.value else {
                continue;
            };
            let file = self.file(section, "file");
            let role = section.text("role").and_then(|role| AdminRole::of(&role));
            let (Some(name), Some(role), Some(file)) = (section.text("name"), role, file) else {
                continue;
            };
            let Some(token) = self.token(name.into(), role, &file) else {
                continue;
            };
            let name = &token.name;
            let same_name = tokens.iter().any(|it| it.name == *name);
            let same_secret = tokens.iter().find(|it| it.secret == token.secret);
            let message = match same_secret {
                _ if same_name => format!("there are two tokens with the name `{name}`"),
                Some(other) => format!(
                    "the tokens `{}` and `{name}` are the same: who sent a request would be unknown",
                    other.name
                ),
                None => {
                    tokens.push(token);
                    continue;
                }
            };
            let error = Diagnostic::error(Code::Duplicate, at.span.clone(), message);
            self.diagnostics.push(error);
        }
        tokens
    }

    /// The token in a file.
    fn token(
        &mut self,
        name: Arc<str>,
        role: AdminRole,
        file: &Located<PathBuf>,
    ) -> Option<AdminToken> {
        self.check_mode(file);
        let secret = self.read(file, files::token)?;
        Some(AdminToken { name, role, secret })
    }
}
