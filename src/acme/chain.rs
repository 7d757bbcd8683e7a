//! A certificate as it is stored: the directory that has issued it, the key and the chain, in one PEM file.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::CertificateIdentifier;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use crate::config::model::{
    AcmeConfig, CertificateLife, HostPattern, KeyType, host_names, issuer_name,
};
use crate::net::managed_certificates::ServedCertificate;

/// What begins the line with the URL of the directory. Readers of PEM skip it.
const DIRECTORY_LINE: &str = "Directory: ";

/// Certificates in a chain, at most.
const MAX_CHAIN: usize = 16;

/// The validity of a certificate that only stands in for another one.
const STAND_IN_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A certificate that was issued.
#[derive(Debug)]
pub(super) struct IssuedCertificate {
    /// What is served.
    pub(super) served: ServedCertificate,
    /// What its renewal depends on.
    pub(super) facts: IssuedFacts,
    /// The names that it is valid for.
    names: Vec<String>,
}

/// What the renewal of a certificate depends on.
#[derive(Debug, Clone)]
pub(super) struct IssuedFacts {
    /// The validity.
    pub(super) life: CertificateLife,
    /// The directory that has issued it; empty if that is not known.
    pub(super) directory: Box<str>,
    /// How the authority identifies it (RFC 9773 section 4.1), if it can.
    pub(super) identifier: Option<CertificateIdentifier<'static>>,
    /// The kind of its key, if it is one of ours.
    pub(super) key_type: Option<KeyType>,
    /// Its public key, in the form that a certificate has it in.
    pub(super) public_key: Arc<[u8]>,
}

impl IssuedFacts {
    /// Whether it was issued as the authority is configured now. What was issued by another directory, such as one
    /// for trials, or has a key of another kind, is served only until there is a better one.
    pub(super) fn fits(&self, config: &AcmeConfig) -> bool {
        *self.directory == *config.directory && self.key_type == Some(config.key_type)
    }
}

impl IssuedCertificate {
    /// Reads what [`stored_form`] has written.
    ///
    /// # Errors
    /// Why it cannot be used, without any of its content.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem)
            .take(MAX_CHAIN)
            .collect();
        let chain = chain.map_err(|_| "the chain is not valid PEM")?;
        let leaf = chain.first().cloned().ok_or("there is no certificate")?;
        let key =
            PrivateKeyDer::from_pem_slice(pem).map_err(|_| "there is no valid private key")?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let certified = certified.map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the key does not fit the certificate",
            _ => "the key or the certificate is of an unsupported type",
        })?;
        let (_, parsed) =
            X509Certificate::from_der(&leaf).map_err(|_| "the certificate is not valid")?;
        let life = CertificateLife::of(&parsed);
        let key_type = match parsed.public_key().parsed() {
            Ok(PublicKey::RSA(_)) => Some(KeyType::Rsa2048),
            Ok(PublicKey::EC(_)) => Some(KeyType::EcdsaP256),
            _ => None,
        };
        let identifier = CertificateIdentifier::try_from(&leaf).ok();
        Ok(Self {
            served: ServedCertificate {
                certified: Arc::new(certified),
                issuer: issuer_name(&parsed).into(),
                not_before: life.not_before,
                not_after: life.not_after,
                is_self_signed: false,
            },
            names: host_names(&parsed),
            facts: IssuedFacts {
                life,
                directory: directory(pem).into(),
                identifier,
                key_type,
                public_key: parsed.public_key().raw.into(),
            },
        })
    }

    /// Whether the certificate is valid for at least one of these names.
    pub(super) fn has_any(&self, names: &[HostPattern]) -> bool {
        let mut names = names.iter();
        names.any(|name| self.names.contains(&name.to_string()))
    }

    /// The first of these names that the certificate is not valid for.
    pub(super) fn missing<'a>(&self, wanted: &'a [HostPattern]) -> Option<&'a HostPattern> {
        wanted
            .iter()
            .find(|name| !self.names.contains(&name.to_string()))
    }
}

/// A certificate, its key and where it comes from, as they are stored.
pub(super) fn stored_form(directory: &str, key_pem: &str, chain_pem: &str) -> Zeroizing<Vec<u8>> {
    // As large as needed at once: what is copied while it grows is not wiped.
    let length = DIRECTORY_LINE.len() + directory.len() + key_pem.len() + chain_pem.len() + 8;
    let mut form = Zeroizing::new(Vec::with_capacity(length));
    for part in [
        DIRECTORY_LINE,
        directory,
        "\n\n",
        key_pem.trim_end(),
        "\n",
        chain_pem,
    ] {
        form.extend_from_slice(part.as_bytes());
    }
    form
}

/// A self-signed certificate for these names, which stands in for one that was not issued yet.
///
/// # Errors
/// Why it cannot be made.
pub(super) fn stand_in(
    wanted: &[HostPattern],
    now: SystemTime,
) -> Result<ServedCertificate, String> {
    let names: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let (not_before, not_after) = (now - Duration::from_secs(60 * 60), now + STAND_IN_LIFE);
    let made = || {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(
            DnType::CommonName,
            "tidegate, until a certificate is issued",
        );
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        Ok((params.self_signed(&key)?, key))
    };
    let (certificate, key) = made().map_err(|error: rcgen::Error| error.to_string())?;
    Ok(ServedCertificate {
        certified: certified(certificate.der().clone(), &key)?,
        issuer: "self-signed".into(),
        not_before,
        not_after,
        is_self_signed: true,
    })
}

/// A certificate with the key that it was made with.
pub(super) fn certified(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
) -> Result<Arc<CertifiedKey>, String> {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Nothing is parsed here: the extension of RFC 8737 is critical, and rustls does not know it.
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], key)))
}

fn directory(pem: &[u8]) -> String {
    let mut lines = pem.split(|byte| *byte == b'\n').take(1);
    let first = lines.next().and_then(|line| str::from_utf8(line).ok());
    let directory = first.and_then(|line| line.strip_prefix(DIRECTORY_LINE));
    directory.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::testing::certificate;
    use super::*;

    fn made(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "An Issuer");
        (key.serialize_pem(), params.self_signed(&key).unwrap().pem())
    }

    #[test]
    fn what_is_stored_is_read() {
        let (key, chain) = made(&["a.example.com", "*.b.example.com"]);
        let form = stored_form("https://ca.example/dir", &key, &chain);
        let issued = IssuedCertificate::parse(&form).unwrap();
        assert_eq!(&*issued.facts.directory, "https://ca.example/dir");
        assert_eq!(&*issued.served.issuer, "An Issuer");
        assert_eq!(issued.facts.key_type, Some(KeyType::EcdsaP256));
        assert!(!issued.served.is_self_signed);
        let wanted = certificate(&["*.b.example.com", "a.example.com"]).names;
        assert_eq!(issued.missing(&wanted), None);
        let wanted = certificate(&["a.example.com", "b.example.com"]).names;
        assert_eq!(issued.missing(&wanted), Some(&wanted[1]));
    }

    #[test]
    fn what_cannot_be_used_is_described_without_its_content() {
        let (key, chain) = made(&["a.example.com"]);
        let (other, _) = made(&["a.example.com"]);
        for (form, expected) in [
            (
                stored_form("", &other, &chain),
                "the key does not fit the certificate",
            ),
            (stored_form("", "", &chain), "there is no valid private key"),
            (stored_form("", &key, ""), "there is no certificate"),
            (
                stored_form("", &key, &chain.replacen("MII", "AAA", 1)),
                "of an unsupported type",
            ),
        ] {
            let error = IssuedCertificate::parse(&form).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_stand_in_is_valid_and_known_as_one() {
        let now = SystemTime::now();
        let served = stand_in(
            &certificate(&["*.a.example.com", "a.example.com"]).names,
            now,
        )
        .unwrap();
        assert!(served.is_self_signed && served.not_before < now && served.not_after > now);
        assert_eq!(served.certified.cert.len(), 1);
    }
}
