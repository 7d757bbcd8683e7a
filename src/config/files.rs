//! The files that a configuration refers to: certificates, keys and CA certificates in PEM, session
//! ticket keys, secrets.
//!
//! These functions parse contents that were read elsewhere; paths are for messages. The contents
//! never appear in a message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::model::{CertificateConfig, HostPattern, Secret, TicketKeysFile};
use super::value;

/// The minimum size of the secret that signs sticky cookies, in bytes.
const MIN_STICKY_BYTES: usize = 32;

/// The minimum length of the admin token, in characters.
const MIN_TOKEN_LENGTH: usize = 16;

/// An error of a certificate and its key, with the file that causes it.
pub(super) enum PairError {
    Cert(String),
    Key(String),
}

/// A private key in PEM.
pub(super) fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| {
        let holds = if contains(bytes, "BEGIN ENCRYPTED PRIVATE KEY") {
            let shown = path.display();
            format!(", but an encrypted one; use the file that `openssl pkey -in {shown} -out FILE` writes")
        } else if contains(bytes, "BEGIN CERTIFICATE") {
            ", but a certificate".to_owned()
        } else {
            String::new()
        };
        unwanted(path, "private key", &error, &holds)
    })
}

/// A certificate chain with the key that fits it.
pub(super) fn certificate(
    (cert, chain): (&Path, Vec<CertificateDer<'static>>),
    (key, secret): (&Path, PrivateKeyDer<'static>),
) -> Result<CertificateConfig, PairError> {
    let facts = chain
        .first()
        .and_then(|first| X509Certificate::from_der(first).ok())
        .map(|(_, parsed)| CertificateFacts::of(&parsed));
    let Some(facts) = facts else {
        return Err(PairError::Cert(format!(
            "`{}` does not contain a valid certificate",
            cert.display()
        )));
    };
    let certified =
        CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider()).map_err(|error| {
            PairError::Key(match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "the key in `{}` does not fit the certificate in `{}`",
                    key.display(),
                    cert.display()
                ),
                _ => format!("the key in `{}` is of an unsupported type", key.display()),
            })
        })?;
    Ok(CertificateConfig {
        cert: cert.to_owned(),
        key: key.to_owned(),
        certified: Arc::new(certified),
        names: facts.names,
        issuer: facts.issuer,
        not_before: facts.not_before,
        not_after: facts.not_after,
    })
}

/// Whether every user of the machine may read or write the file.
pub(super) fn is_open_to_all(path: &Path) -> bool {
    let metadata = fs::metadata(path);
    metadata.is_ok_and(|metadata| metadata.permissions().mode() & 0o006 != 0)
}

/// Session ticket keys: one per line in base64, as in HAProxy's `tls-ticket-keys`.
pub(super) fn ticket_keys(path: &Path, bytes: &[u8]) -> Result<Vec<Secret>, String> {
    let shown = path.display();
    let text = str::from_utf8(bytes).map_err(|_| format!("`{shown}` is not valid UTF-8"))?;
    let lines = text.lines().map(str::trim).enumerate();
    let secrets: Result<Vec<_>, _> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| ticket_secret(line).ok_or(number + 1))
        .collect();
    match secrets {
        Ok(secrets) if secrets.is_empty() => Err(format!("`{shown}` does not contain a key")),
        Ok(secrets) => Ok(secrets),
        Err(number) => Err(format!(
            "line {number} of `{shown}` is not {} or {} bytes in base64",
            TicketKeysFile::SHORT,
            TicketKeysFile::LONG
        )),
    }
}

fn ticket_secret(line: &str) -> Option<Secret> {
    let bytes = Zeroizing::new(STANDARD.decode(line).ok()?);
    matches!(bytes.len(), TicketKeysFile::SHORT | TicketKeysFile::LONG).then(|| Secret::new(bytes))
}

/// The secret that signs sticky cookies: random bytes in any form.
pub(super) fn sticky_secret(path: &Path, bytes: &[u8]) -> Result<Secret, String> {
    let secret = secret(bytes);
    if secret.len() < MIN_STICKY_BYTES {
        return Err(format!(
            "`{}` contains less than {MIN_STICKY_BYTES} bytes; create one with `openssl rand -hex 32`",
            path.display()
        ));
    }
    Ok(Secret::new(secret))
}

/// The admin token, which authorizes changes over TCP: one line of text.
pub(super) fn token(path: &Path, bytes: &[u8]) -> Result<Secret, String> {
    let token = secret(bytes);
    if token.len() < MIN_TOKEN_LENGTH || !token.iter().all(u8::is_ascii_graphic) {
        return Err(format!(
            "`{}` does not contain a token of at least {MIN_TOKEN_LENGTH} visible characters; create one with `openssl rand -hex 32`",
            path.display()
        ));
    }
    Ok(Secret::new(token))
}

/// A secret without surrounding white space: an editor that adds a line break must not make two
/// copies differ.
fn secret(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.trim_ascii().to_vec())
}

/// All CA certificates in a file: at least one, each usable as a trust anchor.
pub(super) fn roots(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let authorities = chain(path, bytes)?;
    let mut store = RootCertStore::empty();
    for authority in &authorities {
        store
            .add(authority.clone())
            .map_err(|_| format!("`{}` contains an invalid certificate", path.display()))?;
    }
    Ok(authorities)
}

/// All certificates in a file: at least one.
pub(super) fn chain(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        outcome => {
            let error = outcome.err().unwrap_or(pem::Error::NoItemsFound);
            let holds = match contains(bytes, "PRIVATE KEY-----") {
                true => ", but a private key",
                false => "",
            };
            Err(unwanted(path, "certificate", &error, holds))
        }
    }
}

/// Why there is no PEM item of this kind, and what the file `holds` instead.
fn unwanted(path: &Path, what: &str, error: &pem::Error, holds: &str) -> String {
    match error {
        pem::Error::NoItemsFound => {
            format!("`{}` does not contain a PEM {what}{holds}", path.display())
        }
        _ => format!("`{}` is not valid PEM", path.display()),
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

/// The host names of a certificate: its subject alternative names, or else its common name.
fn names(certificate: &X509Certificate<'_>) -> Vec<HostPattern> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative.map(|extension| &extension.value.general_names);
    let written: Vec<&str> = match alternative {
        Some(names) => names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            })
            .collect(),
        None => certificate
            .subject()
            .iter_common_name()
            .filter_map(|name| name.as_str().ok())
            .collect(),
    };
    written
        .into_iter()
        .filter_map(|name| value::host(name).ok())
        .collect()
}

/// What is read from an end-entity certificate.
struct CertificateFacts {
    names: Vec<HostPattern>,
    issuer: Box<str>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl CertificateFacts {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        let issuer = certificate.issuer();
        let mut common = issuer.iter_common_name();
        let common = common.find_map(|name| name.as_str().ok());
        Self {
            names: names(certificate),
            issuer: common
                .map_or_else(|| issuer.to_string(), str::to_owned)
                .into(),
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
        }
    }
}

fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        certificate((cert, chain), (key, secret)).map_err(|error| match error {
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
    fn a_key_that_all_may_read_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        fs::write(&path, "secret").unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true), (0o602, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_all(&path), open, "{mode:o}");
        }
        assert!(!is_open_to_all(&folder.path().join("none")));
    }

    #[test]
    fn ticket_keys_are_lines_of_base64() {
        let [short, long] = [48, 80].map(|length| STANDARD.encode(vec![7; length]));
        let read = |text: &str| {
            let lengths = |keys: Vec<Secret>| keys.iter().map(|key| key.bytes().len()).collect();
            ticket_keys(Path::new("tickets.key"), text.as_bytes()).map(lengths)
        };
        let keys: Result<Vec<usize>, String> = read(&format!("# old\n{long}\n\n {short} \n"));
        assert_eq!(keys.unwrap(), [80, 48]);
        assert!(
            read("\n# nothing\n")
                .unwrap_err()
                .ends_with("does not contain a key")
        );
        for line in ["Zm9v", "?", "AAAA=AAAA"] {
            let error = read(&format!("{long}\n{line}\n")).unwrap_err();
            assert!(error.starts_with("line 2 of"), "{error}");
            assert!(!error.contains(line), "{error}");
        }
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
}
