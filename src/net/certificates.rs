//! Chooses the certificate that a listener presents: by the server name that the client asks for, and by the
//! types of key that it can verify.
//!
//! This runs on a worker, in the middle of a handshake. It reads memory only: files were read with the
//! configuration, and certificates that tidegate obtains by itself are brought here by the control runtime.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureScheme};

use super::client_hello::{self, AskedFor};
use super::managed_certificates::{CertificateSlot, ManagedCertificates, asks_for_challenge};
use crate::config::model::{ChallengeKind, HostPattern, ListenerCertificate, ListenerTls};

/// The certificates of a listener.
#[derive(Debug)]
pub(super) struct Certificates {
    by_name: HashMap<HostPattern, Vec<Presentable>>,
    /// For clients that ask for no name, or for one that no certificate has.
    default: Vec<Presentable>,
    /// Set if the listener answers the challenge `tls-alpn-01`.
    challenges: Option<Arc<ManagedCertificates>>,
}

/// A certificate that may be presented.
#[derive(Debug, Clone)]
enum Presentable {
    /// It was read from files.
    Fixed(Arc<CertifiedKey>),
    /// The place of one that tidegate obtains; it may be empty.
    Managed(Arc<CertificateSlot>),
}

impl Presentable {
    /// The certificate, and whether it only stands in for one that was not issued yet.
    fn get(&self) -> Option<(Arc<CertifiedKey>, bool)> {
        match self {
            Self::Fixed(certified) => Some((Arc::clone(certified), false)),
            Self::Managed(slot) => {
                let served = slot.served()?;
                Some((Arc::clone(&served.certified), served.is_self_signed))
            }
        }
    }
}

/// What may be presented: certificates that stand in for others only if there is nothing else.
fn candidates<'a>(all: impl Iterator<Item = &'a Presentable>) -> Vec<Arc<CertifiedKey>> {
    let (stand_ins, real): (Vec<_>, Vec<_>) = all
        .filter_map(Presentable::get)
        .partition(|(_, stands_in)| *stands_in);
    let chosen = if real.is_empty() { stand_ins } else { real };
    chosen.into_iter().map(|(certified, _)| certified).collect()
}

impl Certificates {
    /// The certificates of these settings.
    pub(super) fn of(tls: &ListenerTls, managed: &Arc<ManagedCertificates>) -> Self {
        let mut by_name: HashMap<HostPattern, Vec<Presentable>> = HashMap::new();
        let mut default = Vec::new();
        for (position, certificate) in tls.certificates.iter().enumerate() {
            let presentable = match certificate {
                ListenerCertificate::Files(files) => {
                    Presentable::Fixed(Arc::clone(&files.certified))
                }
                ListenerCertificate::Managed(each) => {
                    Presentable::Managed(managed.slot(&each.id()))
                }
            };
            // The default is the first certificate, or another one for the same name if its key is of a type
            // that the client can verify.
            let first = tls.certificates.first();
            let first_name = first.and_then(|first| first.names().first());
            if position == 0 || first_name.is_some_and(|name| certificate.names().contains(name)) {
                default.push(presentable.clone());
            }
            for name in certificate.names() {
                let same_name = by_name.entry(name.clone()).or_default();
                same_name.push(presentable.clone());
            }
        }
        Self {
            by_name,
            default,
            challenges: answers_challenges(tls).then(|| Arc::clone(managed)),
        }
    }

    /// Whether the listener answers the challenge `tls-alpn-01`.
    pub(super) fn answer_challenges(&self) -> bool {
        self.challenges.is_some()
    }

    /// The certificates for this name, the preferred one first.
    fn named(&self, name: &str) -> impl Iterator<Item = &Presentable> {
        let exact = self.by_name.get(&HostPattern::Exact(name.into()));
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let wildcard = parent.map(|parent| HostPattern::Wildcard(parent.into()));
        let wildcard = wildcard.and_then(|wildcard| self.by_name.get(&wildcard));
        exact.into_iter().chain(wildcard).flatten()
    }
}

/// A validation by `tls-alpn-01` has no client certificate, so there is none where one is required.
fn answers_challenges(tls: &ListenerTls) -> bool {
    let requires = tls.client_auth.as_ref().is_some_and(|it| it.required);
    let mut managed = tls.managed();
    !requires
        && managed.any(|it| {
            let challenges = &it.authority.challenges;
            challenges.contains(&ChallengeKind::TlsAlpn01)
        })
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let challenge = asks_for_challenge(&hello);
        client_hello::note(AskedFor {
            server_name: hello.server_name().map(Into::into),
            challenge,
        });
        if let Some(managed) = &self.challenges
            && challenge
        {
            return managed.challenges.tls_answer(hello.server_name()?);
        }
        // rustls has validated the name and lower-cased it.
        if let Some(name) = hello.server_name() {
            let mut named = self.named(name).peekable();
            if named.peek().is_some() {
                let named = candidates(named);
                return verifiable(named, hello.signature_schemes(), hello.cipher_suites());
            }
        }
        let default = candidates(self.default.iter());
        verifiable(default, hello.signature_schemes(), hello.cipher_suites())
    }
}

/// The first certificate that the client can verify. If it can verify none, the first one: rustls reports what
/// is wrong with the client.
fn verifiable(
    candidates: Vec<Arc<CertifiedKey>>,
    schemes: &[SignatureScheme],
    suites: &[CipherSuite],
) -> Option<Arc<CertifiedKey>> {
    // rustls has removed the schemes of TLS 1.2 that no cipher suite of the client goes with. In TLS 1.3,
    // signatures by PKCS #1 do not count, although clients list them for certificates.
    let is_newer = suites.iter().any(|suite| is_of_tls13(*suite));
    let newer: Vec<SignatureScheme> = match is_newer {
        true => schemes
            .iter()
            .copied()
            .filter(|it| !is_pkcs1(*it))
            .collect(),
        false => Vec::new(),
    };
    let found = [newer.as_slice(), schemes].into_iter().find_map(|schemes| {
        let mut all = candidates.iter();
        all.find(|it| it.key.choose_scheme(schemes).is_some())
            .cloned()
    });
    found.or_else(|| candidates.into_iter().next())
}

/// Whether the cipher suite belongs to TLS 1.3 (RFC 8446 appendix B.4).
fn is_of_tls13(suite: CipherSuite) -> bool {
    u16::from(suite) >> 8 == 0x13
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    matches!(
        scheme,
        SignatureScheme::RSA_PKCS1_SHA1
            | SignatureScheme::RSA_PKCS1_SHA256
            | SignatureScheme::RSA_PKCS1_SHA384
            | SignatureScheme::RSA_PKCS1_SHA512
    )
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::PrivateKeyDer;

    use super::*;
    use crate::config::model::{CertificateConfig, TlsPolicy, TlsVersion};
    use crate::net::managed_certificates::ServedCertificate;

    fn certificate(
        algorithm: &'static rcgen::SignatureAlgorithm,
        names: &[&str],
    ) -> ListenerCertificate {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let chain = vec![params.self_signed(&key).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let pattern = |name: &String| match name.strip_prefix("*.") {
            Some(parent) => HostPattern::Wildcard(parent.into()),
            None => HostPattern::Exact(name.as_str().into()),
        };
        ListenerCertificate::Files(CertificateConfig {
            cert: "a.pem".into(),
            key: "a.key".into(),
            certified: Arc::new(certified.unwrap()),
            names: names.iter().map(pattern).collect(),
            issuer: "".into(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
        })
    }

    fn certificates(all: Vec<ListenerCertificate>) -> Certificates {
        let tls = ListenerTls {
            certificates: all,
            policy: TlsPolicy::default(),
            min_version: TlsVersion::Tls12,
            ticket_keys: None,
            handshakes_at_once: 1,
            client_auth: None,
        };
        Certificates::of(&tls, &Arc::default())
    }

    #[test]
    fn the_first_certificate_that_the_client_can_verify_is_presented() {
        const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        const PSS: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;
        const PKCS1: SignatureScheme = SignatureScheme::RSA_PKCS1_SHA256;
        const OLD: &[CipherSuite] = &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        const NEW: &[CipherSuite] = &[CipherSuite::TLS13_AES_128_GCM_SHA256];
        let both = certificates(vec![
            certificate(&rcgen::PKCS_RSA_SHA256, &["a.example"]),
            certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["*.example"]),
            certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["a.example"]),
        ]);
        let keys = candidates(both.named("a.example"));
        assert_eq!(keys.len(), 3, "a wildcard comes last");
        for (schemes, suites, expected) in [
            (&[ECDSA, PSS][..], NEW, 0),
            (&[ECDSA], NEW, 1),
            (&[PSS], NEW, 0),
            (&[ECDSA, PKCS1], NEW, 1),
            (&[ECDSA, PKCS1], OLD, 0),
            (&[PKCS1], OLD, 0),
            // Neither: rustls says so.
            (&[SignatureScheme::ED25519], NEW, 0),
        ] {
            let found = verifiable(keys.clone(), schemes, suites).unwrap();
            assert!(
                Arc::ptr_eq(&found, &keys[expected]),
                "{schemes:?} {suites:?}"
            );
        }
        assert!(verifiable(Vec::new(), &[ECDSA], NEW).is_none());
    }

    #[test]
    fn a_stand_in_is_presented_only_if_there_is_nothing_else() {
        let managed = ManagedCertificates::default();
        let (first, second) = (
            managed.slot(&"first".into()),
            managed.slot(&"second".into()),
        );
        let all = [&first, &second].map(|slot| Presentable::Managed(Arc::clone(slot)));
        let served = |is_self_signed| {
            let certificate = certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["a.example"]);
            let ListenerCertificate::Files(files) = certificate else {
                panic!("not from files");
            };
            ServedCertificate {
                certified: files.certified,
                issuer: "".into(),
                not_before: SystemTime::UNIX_EPOCH,
                not_after: SystemTime::UNIX_EPOCH,
                is_self_signed,
            }
        };
        assert!(candidates(all.iter()).is_empty());
        first.set(served(true));
        assert_eq!(candidates(all.iter()).len(), 1);
        second.set(served(false));
        let chosen = candidates(all.iter());
        let issued = second.served().unwrap();
        assert!(chosen.len() == 1 && Arc::ptr_eq(&chosen[0], &issued.certified));
    }

    #[test]
    fn the_default_has_the_name_of_the_first_certificate() {
        let all = certificates(vec![
            certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["a.example"]),
            certificate(&rcgen::PKCS_ECDSA_P256_SHA256, &["b.example"]),
            certificate(&rcgen::PKCS_RSA_SHA256, &["b.example", "a.example"]),
        ]);
        assert_eq!(all.default.len(), 2);
        for (name, expected) in [
            ("a.example", 2),
            ("b.example", 2),
            ("c.example", 0),
            ("example", 0),
        ] {
            assert_eq!(all.named(name).count(), expected, "{name}");
        }
    }
}
