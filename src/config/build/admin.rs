//! `[admin]`.

use std::path::PathBuf;
use std::sync::Arc;

use super::Builder;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::files;
use crate::config::model::{
    Admin, AdminAccess, AdminRole, AdminToken, Bind, ClientAuth, ListenerCertificate, ListenerTls,
    Revocations, TlsPolicy, TlsVersion,
};
use crate::config::raw::{ConfigValue, Located, Section};

/// The name of the token in `token_file`.
const TOKEN_FILE: &str = "token_file";

impl Builder<'_> {
    pub(super) fn admin(&mut self, section: &Section) -> Admin {
        let metrics_bind = section.written("metrics_bind").cloned();
        self.places.metrics_bind = metrics_bind.as_ref().map(|at| at.span.clone());
        let written = section.written("bind").cloned();
        self.places.admin_bind = written.as_ref().map(|at| at.span.clone());
        let bind = match &written {
            None => Some(Admin::default_bind(section.mode("mode"))),
            Some(at) => self.admin_bind(at, section),
        };
        if let (Some(Bind::Unix { .. }), Some(at)) = (&bind, section.written("tls")) {
            self.error(Code::Conflict, at, "`tls` applies to TCP addresses only");
        }
        Admin {
            is_default: written.is_none(),
            bind,
            tls: section.optional("tls").and_then(|tls| self.admin_tls(&tls)),
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

    /// TLS of the interface.
    fn admin_tls(&mut self, section: &Section) -> Option<ListenerTls> {
        let certificate = self.certificate_in_files(section);
        let client_auth = self.file(section, "client_ca").and_then(|ca| {
            let authorities = self.read(&ca, files::roots)?;
            Some(ClientAuth {
                ca: ca.value,
                authorities,
                revocations: Revocations::default(),
                required: true,
                header: None,
            })
        });
        Some(ListenerTls {
            certificates: vec![ListenerCertificate::Files(certificate?)],
            policy: TlsPolicy::default(),
            min_version: TlsVersion::Tls12,
            ticket_keys: None,
            handshakes_at_once: usize::MAX,
            client_auth,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of this section, or the errors.
    fn tokens(section: &str) -> Result<Vec<(String, AdminRole)>, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a", "0123456789abcdef"),
            ("b", "fedcba9876543210"),
            ("c", " 0123456789abcdef\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let source = format!(
            "[admin]\nbind = \"127.0.0.1:9900\"\n{section}\n[listener.a]\nbind = [\"127.0.0.1:8080\"]\n\
             [[route]]\nupstream = \"a\"\n[upstream.a]\nendpoints = [\"127.0.0.1:9000\"]\n"
        );
        match crate::config::parse(&source, &folder.path().join("a.toml"), &|_| None) {
            Ok(loaded) => {
                let tokens = loaded.config.admin.access.tokens.into_iter();
                Ok(tokens.map(|it| (it.name.to_string(), it.role)).collect())
            }
            Err(report) => {
                let diagnostics = report.diagnostics().iter();
                let errors = diagnostics.filter(|it| it.code == Code::Duplicate);
                Err(errors.map(|it| it.message.to_string()).collect())
            }
        }
    }

    #[test]
    fn each_token_has_a_name_and_a_secret_of_its_own() {
        let item = |name: &str, file: &str| {
            format!("{{ name = \"{name}\", file = \"{file}\", role = \"read\" }}")
        };
        let all = |items: &[String]| format!("tokens = [{}]", items.join(", "));
        let both = format!("token_file = \"a\"\n{}", all(&[item("ci", "b")]));
        let expected = [
            ("token_file".to_owned(), AdminRole::All),
            ("ci".to_owned(), AdminRole::Read),
        ];
        assert_eq!(tokens(&both), Ok(expected.to_vec()));
        let same_name = "there are two tokens with the name `ci`";
        let same = "the tokens `ci` and `cd` are the same: who sent a request would be unknown";
        for (section, error) in [
            (all(&[item("ci", "a"), item("ci", "b")]), same_name),
            (all(&[item("ci", "a"), item("cd", "c")]), same),
            (
                format!("token_file = \"a\"\n{}", all(&[item("token_file", "b")])),
                "there are two tokens with the name `token_file`",
            ),
        ] {
            assert_eq!(tokens(&section), Err(vec![error.to_owned()]), "{section}");
        }
    }
}
