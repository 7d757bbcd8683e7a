//! The files that a configuration refers to: certificates, keys, CA certificates and revocation lists in PEM,
//! session ticket keys, secrets.
//!
//! These functions parse contents that were read elsewhere; paths are for messages. The contents
//! never appear in a message.

mod pair;

pub(super) use self::pair::{PairError, certificate, private_key};

use std::cmp::Reverse;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer};
use zeroize::Zeroizing;

use super::model::{Secret, TicketKeysFile};

/// The minimum size of a secret that signs cookies, in bytes.
const MIN_SECRET_BYTES: usize = 32;

/// The minimum length of the admin token, in characters.
const MIN_TOKEN_LENGTH: usize = 16;

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

/// A secret that signs cookies: random bytes in any form.
pub(super) fn signing_secret(path: &Path, bytes: &[u8]) -> Result<Secret, String> {
    let secret = secret(bytes);
    if secret.len() < MIN_SECRET_BYTES {
        return Err(format!(
            "`{}` contains less than {MIN_SECRET_BYTES} bytes; create one with `openssl rand -hex 32`",
            path.display()
        ));
    }
    Ok(Secret::new(secret))
}

/// Secrets that seal what nodes share: one in each line.
pub(super) fn sealing_secrets(path: &Path, bytes: &[u8]) -> Result<Vec<Secret>, String> {
    let lines = bytes.split(|byte| *byte == b'\n').map(secret);
    let secrets: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    let is_short = |secret: &Zeroizing<Vec<u8>>| secret.len() < MIN_SECRET_BYTES;
    if secrets.is_empty() || secrets.iter().any(is_short) {
        return Err(format!(
            "`{}` does not contain a secret of at least {MIN_SECRET_BYTES} bytes in each line; create one with `openssl rand -hex 32`",
            path.display()
        ));
    }
    Ok(secrets.into_iter().map(Secret::new).collect())
}

/// A password: one line of text.
pub(super) fn password(path: &Path, bytes: &[u8]) -> Result<Secret, String> {
    let password = secret(bytes);
    let is_text = str::from_utf8(&password).is_ok_and(|text| !text.contains(char::is_control));
    if password.is_empty() || !is_text {
        return Err(format!(
            "`{}` does not contain a password in one line",
            path.display()
        ));
    }
    Ok(Secret::new(password))
}

/// A token of the admin interface: one line of text.
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

/// Headers, one per line: `name: value`, which `parse` reads.
pub(super) fn headers(
    path: &Path,
    bytes: &[u8],
    parse: impl Fn(&str, &str) -> Result<(HeaderName, HeaderValue), String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let shown = path.display();
    let text = str::from_utf8(bytes).map_err(|_| format!("`{shown}` is not valid UTF-8"))?;
    let lines = text.lines().map(str::trim).enumerate();
    let headers: Result<Vec<_>, _> = lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let number = number + 1;
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("line {number} of `{shown}` is not `name: value`"))?;
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                // It may be a part of a secret.
                return Err(format!(
                    "line {number} of `{shown}` does not begin with a valid header name"
                ));
            }
            parse(name, value.trim())
                .map_err(|error| format!("line {number} of `{shown}`: {error}"))
        })
        .collect();
    match headers {
        Ok(headers) if headers.is_empty() => Err(format!("`{shown}` does not contain a header")),
        headers => headers,
    }
}

/// A secret without surrounding white space: an editor that adds a line break must not make two
/// copies differ.
fn secret(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(bytes.trim_ascii().to_vec())
}

/// All CA certificates in a file: at least one, each usable as a trust anchor.
pub(crate) fn roots(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
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

/// All revocation lists in a file: at least one, in PEM or a single one in DER, as authorities publish them.
pub(super) fn revocation_lists(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, String> {
    let in_pem: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let lists = match in_pem {
        Ok(lists) if !lists.is_empty() => lists,
        Ok(_) if !contains(bytes, "-----BEGIN") => vec![bytes.to_vec().into()],
        outcome => {
            let error = outcome.err().unwrap_or(pem::Error::NoItemsFound);
            return Err(unwanted(path, "revocation list", &error, ""));
        }
    };
    let is_valid =
        |list: &CertificateRevocationListDer<'_>| CertificateRevocationList::from_der(list).is_ok();
    match lists.iter().all(is_valid) {
        true => Ok(lists),
        false => Err(format!(
            "`{}` does not contain a valid X.509 revocation list",
            path.display()
        )),
    }
}

/// What sorts the newest list first (RFC 5280 section 5.1.2.4).
pub(super) fn newest_list_first(list: &CertificateRevocationListDer<'static>) -> Reverse<i64> {
    let parsed = CertificateRevocationList::from_der(list).ok();
    Reverse(parsed.map_or(i64::MIN, |(_, parsed)| parsed.last_update().timestamp()))
}

/// Whether one of these lists should have been replaced by now (RFC 5280 section 5.1.2.5).
pub(super) fn has_expired_list(
    lists: &[CertificateRevocationListDer<'static>],
    now: SystemTime,
) -> bool {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    lists.iter().any(|list| {
        let parsed = CertificateRevocationList::from_der(list).ok();
        let next = parsed.and_then(|(_, parsed)| parsed.next_update());
        next.is_some_and(|next| u64::try_from(next.timestamp()).unwrap_or_default() < now)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn headers_are_lines_with_a_colon() {
        let read = |text: &str| {
            headers(Path::new("a.headers"), text.as_bytes(), |name, value| {
                let value = HeaderValue::from_str(value).map_err(|_| "not valid".to_owned())?;
                Ok((name.parse().unwrap(), value))
            })
        };
        let seen = read("# of the collector\n\nAuthorization: Basic YTpi\r\n x-url:https://a:1 \n");
        let expected = [("authorization", "Basic YTpi"), ("x-url", "https://a:1")];
        let expected = expected.map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        assert_eq!(seen.unwrap(), expected);
        for (text, error) in [
            ("", "`a.headers` does not contain a header"),
            ("a: b\ns3cret", "line 2 of `a.headers` is not `name: value`"),
            (
                "Bearer s3cret: b",
                "line 1 of `a.headers` does not begin with a valid header name",
            ),
            ("a: s3cret\u{1}x", "line 1 of `a.headers`: not valid"),
        ] {
            assert_eq!(read(text).unwrap_err(), error);
        }
    }

    #[test]
    fn sealing_secrets_are_lines() {
        let [old, new] = ["1", "2"].map(|digit| digit.repeat(64));
        let read = |text: &str| sealing_secrets(Path::new("fleet.key"), text.as_bytes());
        let both = read(&format!("{new}\n\n {old}\n")).unwrap();
        let both: Vec<_> = both.iter().map(Secret::bytes).collect();
        assert_eq!(both, [new.as_bytes(), old.as_bytes()]);
        assert_eq!(read(&old).unwrap().len(), 1);
        for text in ["", "\n\n", "short", &format!("{old}\nshort\n")] {
            let error = read(text).unwrap_err();
            assert!(
                error.contains("`fleet.key`") && !error.contains("short"),
                "{error}"
            );
        }
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
}
