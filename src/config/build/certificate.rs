//! The certificates of listeners: files, or names for which tidegate obtains one.

use std::collections::HashSet;
use std::net::IpAddr;

use std::sync::Arc;
use std::time::SystemTime;

use super::{Builder, CertificatePlaces};
use crate::config::diagnostic::{Code, Diagnostic, nearest};
use crate::config::model::{
    AcmeConfig, CertificateConfig, ChallengeKind, HostPattern, ListenerCertificate,
    ManagedCertificate,
};
use crate::config::raw::{ConfigValue, Located, Section};
use crate::config::sources::Span;

/// The maximum number of names in a certificate: authorities accept no more.
const MAX_NAMES: usize = 100;

impl Builder<'_> {
    /// All certificates of a listener, with their places.
    pub(super) fn certificates(
        &mut self,
        tls: &Section,
    ) -> (Vec<ListenerCertificate>, Vec<CertificatePlaces>) {
        let mut certificates = Vec::new();
        let mut places = Vec::new();
        let mut seen = HashSet::new();
        for at in tls.list("certificates") {
            let ConfigValue::Section(section) = &at.value else {
                continue;
            };
            let Some((certificate, place)) = self.certificate(section, &at.span) else {
                continue;
            };
            if let ListenerCertificate::Managed(managed) = &certificate
                && !seen.insert(managed.id())
            {
                let message =
                    "the listener already has a certificate of this authority for these names";
                let error = Diagnostic::error(Code::Duplicate, place.certificate.clone(), message);
                self.diagnostics.push(error);
            }
            certificates.push(certificate);
            places.push(place);
        }
        (certificates, places)
    }

    fn certificate(
        &mut self,
        section: &Section,
        span: &Span,
    ) -> Option<(ListenerCertificate, CertificatePlaces)> {
        let [cert, key, names, acme] =
            ["cert", "key", "names", "acme"].map(|it| section.written(it));
        let (files, managed) = (cert.or(key), names.or(acme));
        match (files, managed) {
            (Some(_), Some(at)) => {
                let message = "a certificate is either in files (`cert` and `key`), or obtained for `names` from `acme`";
                self.error(Code::Conflict, at, message);
                None
            }
            (Some(_), None) => {
                let is_whole = self.requires(section, span, ["cert", "key"]);
                let certificate = self.certificate_in_files(section);
                let place = cert.filter(|_| is_whole)?.span.clone();
                let places = CertificatePlaces {
                    certificate: place,
                    names: Vec::new(),
                };
                Some((ListenerCertificate::Files(certificate?), places))
            }
            (None, Some(_)) => {
                let is_whole = self.requires(section, span, ["names", "acme"]);
                let managed = self.managed_certificate(section);
                let names = section.list("names").into_iter().map(|at| at.span);
                let places = CertificatePlaces {
                    certificate: section.written("names").filter(|_| is_whole)?.span.clone(),
                    names: names.collect(),
                };
                Some((ListenerCertificate::Managed(managed?), places))
            }
            (None, None) => {
                if !section.is_flawed {
                    let message = "the certificate has neither files nor names";
                    let hint = "write `cert` and `key`, or `names` and `acme`";
                    let error = Diagnostic::error(Code::Missing, span.clone(), message);
                    self.diagnostics.push(error.hint(hint));
                }
                None
            }
        }
    }

    /// Whether both keys are written. A missing one is reported, unless it was misspelt.
    fn requires(&mut self, section: &Section, span: &Span, keys: [&str; 2]) -> bool {
        let mut is_whole = true;
        for key in keys {
            if section.written(key).is_none() {
                is_whole = false;
                if !section.may_mean(&[key]) {
                    let message = format!("`{key}` is missing");
                    let hint = format!("`{}` and `{}` require each other", keys[0], keys[1]);
                    let error = Diagnostic::error(Code::Missing, span.clone(), message);
                    self.diagnostics.push(error.hint(hint));
                }
            }
        }
        is_whole
    }

    pub(super) fn certificate_in_files(&mut self, section: &Section) -> Option<CertificateConfig> {
        // Both are read, so that both errors are reported at once.
        let (cert, key) = (self.file(section, "cert"), self.file(section, "key"));
        let (cert, key) = (cert?, key?);
        let certificate = self.pair(&cert, &key)?;
        if certificate.not_after < SystemTime::now() {
            let message = format!("the certificate in `{}` has expired", cert.value.display());
            self.diagnostics
                .push(Diagnostic::warning(Code::Expired, cert.span, message));
        }
        Some(certificate)
    }

    fn managed_certificate(&mut self, section: &Section) -> Option<ManagedCertificate> {
        let list = section.list("names");
        if let Some(at) = section.written("names") {
            if list.is_empty() && at.value != ConfigValue::Broken {
                self.error(Code::Value, at, "a certificate requires at least one name");
                return None;
            }
            if list.len() > MAX_NAMES {
                let message = format!(
                    "{} names in one certificate: authorities accept at most {MAX_NAMES}",
                    list.len()
                );
                let hint = "divide them among several certificates";
                let error = Diagnostic::error(Code::Value, at.span.clone(), message);
                self.diagnostics.push(error.hint(hint));
                return None;
            }
        }
        let names = self.certificate_names(&list);
        let authority = self.named_authority(section);
        let authority = authority?;
        self.check_provable(&authority, &list);
        let is_whole = !names.is_empty() && names.len() == list.len();
        is_whole.then_some(ManagedCertificate { names, authority })
    }

    /// The names that a certificate can be obtained for.
    fn certificate_names(&mut self, list: &[Located<ConfigValue>]) -> Vec<HostPattern> {
        let mut names = Vec::new();
        for at in list {
            let ConfigValue::Host(name) = &at.value else {
                continue;
            };
            if is_address(name) {
                let message = format!(
                    "`{name}` is an IP address: tidegate obtains certificates for names only"
                );
                self.error(Code::Value, at, &message);
            } else if names.contains(name) {
                let message = format!("`{name}` is listed twice");
                self.error(Code::Duplicate, at, &message);
            } else {
                names.push(name.clone());
            }
        }
        names
    }

    /// The authority that the certificate names. One that is not there is reported, and one that is flawed
    /// was.
    fn named_authority(&mut self, section: &Section) -> Option<Arc<AcmeConfig>> {
        let (at, name) = (section.written("acme")?, section.text("acme")?);
        let mut all = self.authorities.iter();
        if let Some(authority) = all.find(|it| *it.name == *name) {
            return Some(Arc::clone(authority));
        }
        let known = self.authority_names.as_ref()?;
        if known.contains(&name) {
            return None;
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let hint = match nearest(&name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => {
                format!("add `[acme.{name}]` with `directory = \"letsencrypt\"`")
            }
            None => format!("the configuration has: {}", known.join(", ")),
        };
        let message = format!("there is no authority `{name}`");
        let error = Diagnostic::error(Code::Dangling, at.span.clone(), message);
        self.diagnostics.push(error.hint(hint));
        None
    }

    /// Reports names that none of the authority's challenges can prove.
    fn check_provable(&mut self, authority: &AcmeConfig, list: &[Located<ConfigValue>]) {
        if authority.challenges.is_empty() {
            return;
        }
        for at in list {
            let ConfigValue::Host(name) = &at.value else {
                continue;
            };
            let mut challenges = authority.challenges.iter();
            if !challenges.any(|challenge| challenge.proves(name)) {
                let message = format!("`{name}` requires the challenge `{}`", ChallengeKind::Dns01);
                let hint = format!(
                    "add `dns-01` to `challenges` of `[acme.{}]`, with `dns_hook` or `dns_url`",
                    authority.name
                );
                let error = Diagnostic::error(Code::Conflict, at.span.clone(), message);
                self.diagnostics.push(error.hint(hint));
            }
        }
    }
}

fn is_address(name: &HostPattern) -> bool {
    match name {
        HostPattern::Exact(name) => name.starts_with('[') || name.parse::<IpAddr>().is_ok(),
        HostPattern::Wildcard(_) => false,
    }
}
