//! `[acme.NAME]`.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Uri;
use zeroize::Zeroizing;

use super::{AuthorityPlaces, Builder, duration, is_empty_list, texts};
use crate::config::diagnostic::{Code, Diagnostic, nearest};
use crate::config::files;
use crate::config::model::{
    AcmeConfig, ChallengeKind, DnsMeans, DnsPublisher, ExternalAccount, KeyType, Roots, Secret,
    StoreConfig, UntilIssued,
};
use crate::config::raw::{ConfigValue, Located, Section};

/// Directories that have a name here.
const DIRECTORIES: [(&str, &str); 3] = [
    (
        "letsencrypt",
        "https://acme-v02.api.letsencrypt.org/directory",
    ),
    (
        "letsencrypt-staging",
        "https://acme-staging-v02.api.letsencrypt.org/directory",
    ),
    ("zerossl", "https://acme.zerossl.com/v2/DV90"),
];

/// What listeners do with the certificates of an authority.
#[derive(Clone, Copy, Default)]
struct AuthorityUse {
    /// A certificate of a listener refers to it.
    is_used: bool,
    /// A listener with such a certificate does not require client certificates: a validation by `tls-alpn-01`
    /// has none.
    answers_tls: bool,
}

impl AuthorityUse {
    fn of(root: &Section, name: &str) -> Self {
        let mut found = Self::default();
        for (_, listener) in root.named("listener") {
            let tls = listener.value.section("tls");
            let certificates = tls.list("certificates");
            let refers = |at: &Located<ConfigValue>| match &at.value {
                ConfigValue::Section(pair) => pair.text("acme").as_deref() == Some(name),
                _ => false,
            };
            if certificates.iter().any(refers) {
                let auth = tls.optional("client_auth");
                let requires =
                    auth.is_some_and(|it| it.text("mode").as_deref() != Some("optional"));
                found.is_used = true;
                found.answers_tls |= !requires;
            }
        }
        found
    }
}

impl Builder<'_> {
    /// All authorities. Those that are flawed are left out, and known by name.
    /// Their items are in `shared`, if nodes share certificates.
    pub(super) fn authorities(&mut self, root: &Section, shared: Option<&Arc<StoreConfig>>) {
        for (name, section) in root.named("acme") {
            let found = AuthorityUse::of(root, &name.value);
            if let Some(mut authority) = self.authority(&name, &section.value, found) {
                authority.shared = shared.map(Arc::clone);
                let challenges = section.value.written("challenges");
                self.places.authorities.push(AuthorityPlaces {
                    name: name.span.clone(),
                    challenges: challenges.map(|at| at.span.clone()),
                });
                self.authorities.push(Arc::new(authority));
            }
        }
    }

    fn authority(
        &mut self,
        name: &Located<String>,
        section: &Section,
        found: AuthorityUse,
    ) -> Option<AcmeConfig> {
        let directory = self.directory(section);
        let roots = match self.file(section, "ca") {
            None => Some(Roots::Platform),
            Some(ca) => self.read(&ca, files::roots).map(Roots::Given),
        };
        self.check_agreed(name, section);
        let challenges = self.challenges(name, section, found);
        let wants_dns = challenges.contains(&ChallengeKind::Dns01);
        let dns = self.dns_publisher(name, section, wants_dns);
        let external_account = section.optional("external_account");
        if let Some(at) = section.written("directory").filter(|_| {
            external_account.is_none() && section.text("directory").as_deref() == Some("zerossl")
        }) {
            let message = "ZeroSSL gives new accounts no certificates without `external_account`";
            let hint = "create an EAB key in its web interface, and write `external_account = { id = \"…\", key_file = \"…\" }`";
            let warning = Diagnostic::warning(Code::AcmeAccount, at.span.clone(), message);
            self.diagnostics.push(warning.hint(hint));
        }
        let email = self.email(section);
        let state = self.state(name, section, found);
        let external_account = match external_account {
            Some(account) => Some(self.external_account(&account)?),
            None => None,
        };
        let authority = AcmeConfig {
            name: name.value.as_str().into(),
            directory: directory?,
            roots: roots?,
            email,
            profile: section.text("profile").map(Into::into),
            challenges,
            dns,
            external_account,
            state,
            until_issued: match section.text("until_issued").as_deref() {
                Some("self_signed") => UntilIssued::SelfSigned,
                _ => UntilIssued::Refuse,
            },
            key_type: match section.text("key_type").as_deref() {
                Some("rsa-2048") => KeyType::Rsa2048,
                _ => KeyType::EcdsaP256,
            },
            shared: None,
        };
        Some(authority)
    }

    fn directory(&mut self, section: &Section) -> Option<Box<str>> {
        let (at, text) = (section.written("directory")?, section.text("directory")?);
        if let Some((_, url)) = DIRECTORIES.iter().find(|(name, _)| *name == text) {
            return Some((*url).into());
        }
        let names = DIRECTORIES.map(|(name, _)| name);
        let parsed = text.parse::<Uri>().ok();
        let parsed = parsed.filter(|url| url.host().is_some_and(|host| !host.is_empty()));
        let (message, hint) = match parsed.as_ref().and_then(Uri::scheme_str) {
            Some("https") => return Some(text.into()),
            Some("http") => (
                "a directory is asked over `https` only: what it says decides who gets a certificate".to_owned(),
                Some("with `ca`, the authority's server may have a certificate of a CA of its own".to_owned()),
            ),
            _ => (
                format!("`{text}` is not a directory; use `letsencrypt`, `letsencrypt-staging`, `zerossl` or an `https` URL"),
                nearest(&text, &names).map(|near| format!("did you mean `\"{near}\"`?")),
            ),
        };
        let mut error = Diagnostic::error(Code::Value, at.span.clone(), message);
        error.hint = hint;
        self.diagnostics.push(error);
        None
    }

    fn check_agreed(&mut self, name: &Located<String>, section: &Section) {
        if section.bool("terms_agreed") || section.may_mean(&["terms_agreed"]) {
            return;
        }
        let at = section.written("terms_agreed");
        let span = at.map_or_else(|| name.span.clone(), |at| at.span.clone());
        let message = "an account requires that you agree to the authority's terms of service";
        let hint = "read them, and write `terms_agreed = true`";
        let error = Diagnostic::error(Code::Missing, span, message);
        self.diagnostics.push(error.hint(hint));
    }

    /// The challenges that can be used, in the order of preference.
    fn challenges(
        &mut self,
        name: &Located<String>,
        section: &Section,
        found: AuthorityUse,
    ) -> Vec<ChallengeKind> {
        let mut challenges = Vec::new();
        for at in section.list("challenges") {
            let ConfigValue::Text(token) = &at.value else {
                continue;
            };
            let challenge = match token.as_str() {
                "http-01" => ChallengeKind::Http01,
                "dns-01" => ChallengeKind::Dns01,
                _ => ChallengeKind::TlsAlpn01,
            };
            if challenges.contains(&challenge) {
                let message = format!("`{challenge}` is listed twice");
                self.error(Code::Duplicate, &at, &message);
            } else {
                challenges.push(challenge);
            }
        }
        let written = section.written("challenges");
        if let Some(at) = written.filter(is_empty_list) {
            self.error(
                Code::Value,
                at,
                "an authority requires at least one challenge",
            );
        }
        if !found.is_used || found.answers_tls || !challenges.contains(&ChallengeKind::TlsAlpn01) {
            return challenges;
        }
        challenges.retain(|it| *it != ChallengeKind::TlsAlpn01);
        let span = written.map_or_else(|| name.span.clone(), |at| at.span.clone());
        let message = "`tls-alpn-01` cannot be used: every listener with such a certificate requires client certificates, and the authority has none";
        if challenges.is_empty() {
            let hint = "add `http-01` and a listener on port 80, or `dns-01`";
            let error = Diagnostic::error(Code::Conflict, span, message);
            self.diagnostics.push(error.hint(hint));
        } else if written.is_some() {
            self.diagnostics
                .push(Diagnostic::warning(Code::NoEffect, span, message));
        }
        challenges
    }

    fn dns_publisher(
        &mut self,
        name: &Located<String>,
        section: &Section,
        is_wanted: bool,
    ) -> Option<DnsPublisher> {
        const MEANS: [&str; 2] = ["dns_hook", "dns_url"];
        let by = match MEANS.map(|key| section.written(key)) {
            [Some(_), Some(url)] => {
                let message = "`dns_hook` and `dns_url` exclude each other";
                self.error(Code::Conflict, url, message);
                return None;
            }
            [Some(at), None] => self.dns_hook(at, &section.list("dns_hook")),
            [None, Some(at)] => self.dns_service(at),
            [None, None] => {
                if is_wanted && !section.may_mean(&MEANS) {
                    let at = section.written("challenges");
                    let span = at.map_or_else(|| name.span.clone(), |at| at.span.clone());
                    let message =
                        "`dns-01` requires `dns_hook` or `dns_url`, which publishes the records";
                    let hint = "write e.g. `dns_hook = [\"/usr/local/bin/dns-hook\"]`";
                    let error = Diagnostic::error(Code::Missing, span, message);
                    self.diagnostics.push(error.hint(hint));
                }
                None
            }
        };
        for key in ["dns_hook", "dns_url", "dns_propagation"] {
            if let Some(at) = section.written(key).filter(|_| !is_wanted) {
                let message = format!("`{key}` has no effect without `dns-01` in `challenges`");
                let warning = Diagnostic::warning(Code::NoEffect, at.span.clone(), message);
                self.diagnostics.push(warning);
            }
        }
        is_wanted.then_some(DnsPublisher {
            by: by?,
            propagation: duration(section, "dns_propagation"),
        })
    }

    fn dns_hook(
        &mut self,
        at: &Located<ConfigValue>,
        words: &[Located<ConfigValue>],
    ) -> Option<DnsMeans> {
        let words: Vec<String> = texts(words).iter().map(ToString::to_string).collect();
        let (message, hint) = match words.as_slice() {
            [] => ("the list is empty: it must begin with a program", None),
            [only] if only.contains(char::is_whitespace) => {
                let list: Vec<String> = only
                    .split_whitespace()
                    .map(|it| format!("\"{it}\""))
                    .collect();
                let hint = format!("write `dns_hook = [{}]`", list.join(", "));
                (
                    "no shell splits this command into its arguments",
                    Some(hint),
                )
            }
            _ => return Some(DnsMeans::Hook(words.into())),
        };
        let mut error = Diagnostic::error(Code::Value, at.span.clone(), message);
        error.hint = hint;
        self.diagnostics.push(error);
        None
    }

    fn dns_service(&mut self, at: &Located<ConfigValue>) -> Option<DnsMeans> {
        let ConfigValue::Text(text) = &at.value else {
            return None;
        };
        let service = dns_service(text);
        if service.is_none() {
            // The text may contain a password.
            let message = "this is not an `https` or `http` URL without a query";
            self.error(Code::Value, at, message);
        }
        service
    }

    fn external_account(&mut self, section: &Section) -> Option<ExternalAccount> {
        let file = self.file(section, "key_file")?;
        self.check_mode(&file);
        let key = self.read(&file, |path, bytes| {
            account_key(bytes)
                .ok_or_else(|| format!("`{}` does not contain a key in base64", path.display()))
        })?;
        Some(ExternalAccount {
            id: section.text("id")?.into(),
            key,
        })
    }

    fn email(&mut self, section: &Section) -> Option<Box<str>> {
        let (at, text) = (section.written("email")?, section.text("email")?);
        let halves = text.split_once('@');
        let is_plain = |half: &str| {
            !half.is_empty() && !half.contains(|c: char| c.is_whitespace() || "@:,<>".contains(c))
        };
        if halves.is_some_and(|(name, host)| is_plain(name) && is_plain(host)) {
            return Some(text.into());
        }
        let message = format!("`{text}` is not an e-mail address such as `ops@example.com`");
        self.error(Code::Value, at, &message);
        None
    }

    /// The folder of accounts and certificates. Here it is only noted: it may be on another machine that does not
    /// respond at the moment, and what is served from memory does not depend on it.
    fn state(&mut self, name: &Located<String>, section: &Section, found: AuthorityUse) -> PathBuf {
        let written = section.text("state").unwrap_or_default();
        let at = section.written("state");
        let source = at.map_or_else(|| name.span.source(), |at| at.span.source());
        let folder = self.sources.get(source).folder().join(written);
        if !found.is_used || at.is_some_and(|at| at.value == ConfigValue::Broken) {
            return folder;
        }
        self.places.written_folders.push(Located {
            span: at.map_or_else(|| name.span.clone(), |at| at.span.clone()),
            value: folder.clone(),
        });
        folder
    }
}

/// The service at this URL, which may have user name and password.
fn dns_service(text: &str) -> Option<DnsMeans> {
    let url: Uri = text.parse().ok()?;
    let scheme = url
        .scheme_str()
        .filter(|it| matches!(*it, "https" | "http"))?;
    let authority = url.authority()?.as_str();
    if url.query().is_some() || url.host().is_none_or(str::is_empty) {
        return None;
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    let credentials = match user {
        None => None,
        Some(user) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            let user = String::from_utf8(decoded(user).to_vec()).ok()?;
            Some((user.into(), Secret::new(decoded(password))))
        }
    };
    Some(DnsMeans::Service {
        url: format!("{scheme}://{host}{}", url.path().trim_end_matches('/')).into(),
        credentials,
    })
}

/// A part of a URL without its percent-encoding.
fn decoded(text: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        let escaped = escaped.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = match escaped {
            Some(_) => rest.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    bytes
}

/// The key of an external account: in base64 for URLs, as authorities show it, or in that of PEM.
fn account_key(bytes: &[u8]) -> Option<Secret> {
    let text = str::from_utf8(bytes).ok()?.trim();
    let unpadded = text.trim_end_matches('=');
    let decoded = URL_SAFE_NO_PAD
        .decode(unpadded)
        .or_else(|_| STANDARD.decode(text));
    let decoded = Zeroizing::new(decoded.ok()?);
    (!decoded.is_empty()).then(|| Secret::new(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_service_is_not_part_of_its_url() {
        let parts = |text: &str| match dns_service(text)? {
            DnsMeans::Service { url, credentials } => {
                let user = credentials.map(|(user, password)| {
                    let password = String::from_utf8(password.bytes().to_vec()).unwrap();
                    format!("{user} {password}")
                });
                Some((url.to_string(), user.unwrap_or_default()))
            }
            DnsMeans::Hook(_) => None,
        };
        let is = |url: &str, user: &str| Some((url.to_owned(), user.to_owned()));
        for (text, expected) in [
            (
                "https://dns.internal/acme/",
                is("https://dns.internal/acme", ""),
            ),
            ("http://127.0.0.1:81", is("http://127.0.0.1:81", "")),
            (
                "https://a:b%40c@dns.internal",
                is("https://dns.internal", "a b@c"),
            ),
            ("https://a@dns.internal", is("https://dns.internal", "a ")),
            ("https://dns.internal/?key=a", None),
            ("ftp://dns.internal/", None),
            ("dns.internal", None),
        ] {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn keys_of_accounts_are_in_base64_of_either_kind() {
        for (text, expected) in [
            ("-_8\n", Some(vec![0xfb, 0xff])),
            ("+/8=", Some(vec![0xfb, 0xff])),
            ("", None),
            ("not base64", None),
        ] {
            let key = account_key(text.as_bytes()).map(|key| key.bytes().to_vec());
            assert_eq!(key, expected, "{text}");
        }
    }
}
