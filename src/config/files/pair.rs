//! A certificate chain and its private key, as people have them: each thing that is often wrong about them has a
//! sentence of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{contains, unwanted};
use crate::config::model::{CertificateConfig, CertificateLife, host_names, issuer_name};
use crate::config::value;

/// An error of a certificate and its key, with the file that causes it.
pub(in crate::config) enum PairError {
    Cert(String),
    Key(String),
}

/// A private key in PEM.
pub(in crate::config) fn private_key(
    path: &Path,
    bytes: &[u8],
) -> Result<PrivateKeyDer<'static>, String> {
    let decrypt = || {
        let shown = path.display();
        format!(
            ", but an encrypted one; use the file that `openssl pkey -in {shown} -out FILE` writes"
        )
    };
    // In the older form, the encryption is a header inside of what looks like a plain key.
    if contains(bytes, "Proc-Type: 4,ENCRYPTED") {
        let shown = path.display();
        return Err(format!(
            "`{shown}` does not contain a PEM private key{}",
            decrypt()
        ));
    }
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let holds = if contains(bytes, "BEGIN ENCRYPTED PRIVATE KEY") {
            decrypt()
        } else if contains(bytes, "BEGIN CERTIFICATE") {
            ", but a certificate".to_owned()
        } else {
            String::new()
        };
        unwanted(path, "private key", &error, &holds)
    })
}

/// A certificate chain with the key that fits it, and what is doubtful about the chain.
pub(in crate::config) fn certificate(
    (cert, chain): (&Path, Vec<CertificateDer<'static>>),
    (key, secret): (&Path, PrivateKeyDer<'static>),
) -> Result<(CertificateConfig, Vec<String>), PairError> {
    let shown = cert.display();
    let parsed: Option<Vec<X509Certificate<'_>>> = chain
        .iter()
        .map(|certificate| Some(X509Certificate::from_der(certificate).ok()?.1))
        .collect();
    let Some((first, issuers)) = parsed.as_deref().and_then(<[_]>::split_first) else {
        return Err(PairError::Cert(format!(
            "`{shown}` does not contain a valid certificate"
        )));
    };
    if first.version() != X509Version::V3 {
        return Err(PairError::Cert(format!(
            "the certificate in `{shown}` is of X.509 version 1, which has no names that clients accept; create one of version 3, with `subjectAltName`"
        )));
    }
    let signing = aws_lc_rs::default_provider()
        .key_provider
        .load_private_key(secret)
        .map_err(|_| {
            PairError::Key(format!(
                "the key in `{}` is of an unsupported type",
                key.display()
            ))
        })?;
    if !belongs_to(&*signing, first) {
        let place = issuers.iter().position(|each| belongs_to(&*signing, each));
        return Err(match place {
            Some(place) => PairError::Cert(format!(
                "the certificates in `{shown}` are in the wrong order: the one of the key is number {}, and must be the first",
                place + 2
            )),
            None => PairError::Key(format!(
                "the key in `{}` does not fit the certificate in `{shown}`",
                key.display()
            )),
        });
    }
    let life = CertificateLife::of(first);
    let names = host_names(first).into_iter();
    let names = names.filter_map(|name| value::host(&name).ok());
    let doubts = doubts(cert, first, issuers);
    Ok((
        CertificateConfig {
            cert: cert.to_owned(),
            key: key.to_owned(),
            certified: Arc::new(CertifiedKey::new(chain.clone(), signing)),
            names: names.collect(),
            issuer: issuer_name(first).into(),
            not_before: life.not_before,
            not_after: life.not_after,
        },
        doubts,
    ))
}

fn belongs_to(key: &dyn SigningKey, certificate: &X509Certificate<'_>) -> bool {
    let public = key.public_key();
    public.is_none_or(|public| *public == *certificate.public_key().raw)
}

/// What clients may stumble over in a chain that is valid otherwise.
fn doubts(
    path: &Path,
    first: &X509Certificate<'_>,
    issuers: &[X509Certificate<'_>],
) -> Vec<String> {
    let shown = path.display();
    let mut doubts = Vec::new();
    let mut below = first;
    for (position, issuer) in issuers.iter().enumerate() {
        let number = position + 2;
        if below.issuer() != issuer.subject() {
            doubts.push(format!(
                "the chain in `{shown}` is interrupted: certificate number {number} has not issued number {}, so some clients cannot verify it",
                number - 1
            ));
        }
        if CertificateLife::of(issuer).not_after < SystemTime::now() {
            doubts.push(format!(
                "certificate number {number} in `{shown}`, an intermediate one, has expired: clients that do not know another way to a root refuse the chain"
            ));
        }
        below = issuer;
    }
    doubts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::files::chain;

    fn pair(folder: &Path, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        fs::write(folder.join(format!("{name}.pem")), made.cert.pem()).unwrap();
        fs::write(
            folder.join(format!("{name}.key")),
            made.signing_key.serialize_pem(),
        )
        .unwrap();
    }

    fn read(cert: &Path, key: &Path) -> Result<CertificateConfig, String> {
        let chain = chain(cert, &fs::read(cert).unwrap())?;
        let secret = private_key(key, &fs::read(key).unwrap())?;
        certificate((cert, chain), (key, secret))
            .map(|(pair, _)| pair)
            .map_err(|error| match error {
                PairError::Cert(message) | PairError::Key(message) => message,
            })
    }

    fn message(cert: &Path, key: &Path) -> String {
        read(cert, key).err().unwrap()
    }

    #[test]
    fn names_come_from_the_certificate() {
        let folder = tempfile::tempdir().unwrap();
        pair(folder.path(), "a", &["a.example.com", "*.example.org"]);
        let read = read(&folder.path().join("a.pem"), &folder.path().join("a.key")).unwrap();
        let names: Vec<String> = read.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["a.example.com", "*.example.org"]);
        assert!(read.not_after > SystemTime::now());
    }

    #[test]
    fn a_key_must_fit_and_files_must_hold_what_they_should() {
        let folder = tempfile::tempdir().unwrap();
        pair(folder.path(), "a", &["a.example.com"]);
        pair(folder.path(), "b", &["b.example.com"]);
        let file = |name: &str| folder.path().join(name);
        assert!(message(&file("a.pem"), &file("b.key")).contains("does not fit"));
        assert!(
            message(&file("a.key"), &file("a.key")).contains("does not contain a PEM certificate")
        );
        assert!(
            message(&file("a.pem"), &file("a.pem")).contains("does not contain a PEM private key")
        );
    }

    /// A root, an intermediate that expired long ago or not, and a certificate, with its key.
    fn issued(is_expired: bool) -> ([String; 3], String) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = || KeyPair::generate().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let root_key = key();
        let root = authority("root");
        let root_pem = root.self_signed(&root_key).unwrap().pem();
        let root = Issuer::new(root, root_key);
        let mut between = authority("intermediate");
        if is_expired {
            between.not_before = rcgen::date_time_ymd(2000, 1, 1);
            between.not_after = rcgen::date_time_ymd(2001, 1, 1);
        }
        let between_key = key();
        let between_pem = between.signed_by(&between_key, &root).unwrap().pem();
        let between = Issuer::new(between, between_key);
        let own = key();
        let params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        let pem = params.signed_by(&own, &between).unwrap().pem();
        ([pem, between_pem, root_pem], own.serialize_pem())
    }

    #[test]
    fn chains_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("a.pem"), folder.path().join("a.key"));
        for (order, is_expired, expected) in [
            (&[0, 1, 2][..], false, Ok(None)),
            (&[0][..], false, Ok(None)),
            (&[0, 2, 1][..], false, Ok(Some("is interrupted"))),
            (
                &[0, 2][..],
                false,
                Ok(Some("number 2 has not issued number 1")),
            ),
            (&[0, 1, 2][..], true, Ok(Some("has expired"))),
            (
                &[1, 0, 2][..],
                false,
                Err("is number 2, and must be the first"),
            ),
            (
                &[2, 1, 0][..],
                false,
                Err("is number 3, and must be the first"),
            ),
            (&[1, 2][..], false, Err("does not fit")),
        ] {
            let (pems, secret) = issued(is_expired);
            let text: String = order.iter().map(|place| &*pems[*place]).collect();
            let chain = chain(&cert, text.as_bytes()).unwrap();
            let secret = private_key(&key, secret.as_bytes()).unwrap();
            let seen = certificate((&cert, chain), (&key, secret));
            match (seen, expected) {
                (Ok((_, doubts)), Ok(None)) => assert!(doubts.is_empty(), "{order:?} {doubts:?}"),
                (Ok((_, doubts)), Ok(Some(doubt))) => {
                    assert!(
                        doubts.iter().any(|each| each.contains(doubt)),
                        "{order:?} {doubts:?}"
                    );
                }
                (Err(PairError::Cert(error) | PairError::Key(error)), Err(part)) => {
                    assert!(error.contains(part), "{order:?} {error}");
                }
                _ => panic!("{order:?}"),
            }
        }
    }

    #[test]
    fn encrypted_keys_are_recognised_in_both_forms() {
        let path = Path::new("a.key");
        for text in [
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        ] {
            let error = private_key(path, text.as_bytes()).unwrap_err();
            assert!(error.contains("an encrypted one"), "{error}");
        }
    }
}
