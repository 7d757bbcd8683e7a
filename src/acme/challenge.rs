//! A challenge that is open, and its answer in each of the three ways.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::ChallengeType;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use std::sync::Arc;

use super::chain::certified;
use crate::config::model::ChallengeKind;

/// A challenge that is open, as nodes share it. There is no `Debug`: the key authorization stays out of logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OpenChallenge {
    /// The token of the kind in RFC 8555 and 8737.
    kind: String,
    /// The name that it proves, without the `*.` of a wildcard.
    pub(super) name: String,
    /// What the authority asks for by http-01.
    pub(super) token: String,
    /// What it is answered.
    pub(super) key_authorization: String,
}

impl OpenChallenge {
    pub(super) fn new(
        kind: ChallengeKind,
        name: String,
        token: String,
        key_authorization: &str,
    ) -> Self {
        Self {
            kind: kind.token().to_owned(),
            name,
            token,
            key_authorization: key_authorization.to_owned(),
        }
    }

    /// Reads what another node has written; `None` if it cannot be read, or is of an unknown kind.
    pub(super) fn parse(json: &[u8]) -> Option<Self> {
        let open: Self = serde_json::from_slice(json).ok()?;
        open.kind().is_some().then_some(open)
    }

    /// As it is stored.
    pub(super) fn to_json(&self) -> Vec<u8> {
        // Strings can always be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The way in which it is answered.
    pub(super) fn kind(&self) -> Option<ChallengeKind> {
        KINDS.into_iter().find(|kind| kind.token() == self.kind)
    }

    /// The name of the TXT record (RFC 8555 section 8.4).
    pub(super) fn record_name(&self) -> String {
        format!("_acme-challenge.{}", self.name)
    }

    /// The value of the TXT record.
    pub(super) fn record_value(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.digest())
    }

    /// The certificate for tls-alpn-01 (RFC 8737 section 3).
    ///
    /// # Errors
    /// Why it cannot be made.
    pub(super) fn certificate(&self) -> Result<Arc<CertifiedKey>, String> {
        let made = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new([self.name.clone()])?;
            params.distinguished_name = DistinguishedName::new();
            let extension = CustomExtension::new_acme_identifier(self.digest().as_ref());
            params.custom_extensions = vec![extension];
            Ok((params.self_signed(&key)?, key))
        };
        let (certificate, key) = made().map_err(|error: rcgen::Error| error.to_string())?;
        certified(certificate.der().clone(), &key)
    }

    fn digest(&self) -> digest::Digest {
        digest::digest(&digest::SHA256, self.key_authorization.as_bytes())
    }
}

const KINDS: [ChallengeKind; 3] = [
    ChallengeKind::Http01,
    ChallengeKind::TlsAlpn01,
    ChallengeKind::Dns01,
];

/// How the protocol's library calls it.
pub(super) fn protocol_type(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        ChallengeKind::Dns01 => ChallengeType::Dns01,
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    fn open(kind: ChallengeKind) -> OpenChallenge {
        OpenChallenge::new(kind, "a.example.com".into(), "abc".into(), "abc.thumb")
    }

    #[test]
    fn what_is_stored_is_read() {
        for kind in KINDS {
            let written = open(kind);
            let read = OpenChallenge::parse(&written.to_json()).unwrap();
            assert!(read == written && read.kind() == Some(kind), "{kind}");
        }
        let json = String::from_utf8(open(ChallengeKind::Http01).to_json()).unwrap();
        let unknown = json.replace("http-01", "carrier-pigeon-01");
        assert!(OpenChallenge::parse(unknown.as_bytes()).is_none());
        assert!(OpenChallenge::parse(b"{}").is_none());
    }

    /// `printf %s abc.thumb | openssl sha256 -binary | basenc --base64url`
    #[test]
    fn a_record_has_the_digest() {
        let open = open(ChallengeKind::Dns01);
        assert_eq!(open.record_name(), "_acme-challenge.a.example.com");
        assert_eq!(
            open.record_value(),
            "ILWUmitte4M611MoFcoESoglC5dOeSLM-0DMXNrZyjk"
        );
    }

    /// RFC 8737 section 3: one name, and a critical extension with the digest as an octet string.
    #[test]
    fn a_certificate_has_the_name_and_the_digest() {
        let open = open(ChallengeKind::TlsAlpn01);
        let certified = open.certificate().unwrap();
        let (_, parsed) = X509Certificate::from_der(&certified.cert[0]).unwrap();
        let names = &parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names;
        assert_eq!(format!("{names:?}"), "[DNSName(\"a.example.com\")]");
        let extension = parsed
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
        let extension = extension.unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value[..2], [4, 32]);
        assert_eq!(&extension.value[2..], open.digest().as_ref());
    }
}
