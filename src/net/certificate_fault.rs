//! Why a certificate is not accepted, or a TLS handshake failed otherwise, in words for operators.

use std::io;

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertRevocationListError, CertificateError, Error, OtherError};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// What rustls rejects about a certificate without a name of its own for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnusualCertificate {
    /// X.509 versions 1 and 2 have no extensions, so nothing says what a certificate is for.
    #[error(
        "it is an X.509 certificate of version 1, which has no subject alternative names: create one of version 3"
    )]
    OldVersion,
    /// The end-entity certificate is a CA certificate (RFC 5280 section 4.2.1.9).
    #[error(
        "it is a CA certificate (`CA:TRUE`), which is only accepted if it is itself in `ca`, byte for byte"
    )]
    Authority,
    /// The certificate is not one of those whose fingerprints are configured.
    #[error("its fingerprint is not the configured one")]
    OtherFingerprint,
}

impl From<UnusualCertificate> for Error {
    fn from(unusual: UnusualCertificate) -> Self {
        CertificateError::Other(OtherError(std::sync::Arc::new(unusual))).into()
    }
}

/// A more telling error than `error` for this certificate, if it has a property that explains it.
pub(super) fn explained(error: Error, certificate: &CertificateDer<'_>) -> Error {
    let unnamed = matches!(
        error,
        Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::BadEncoding)
    );
    let Some((_, parsed)) = X509Certificate::from_der(certificate)
        .ok()
        .filter(|_| unnamed)
    else {
        return error;
    };
    if parsed.version() != X509Version::V3 {
        return UnusualCertificate::OldVersion.into();
    }
    if parsed.is_ca() {
        return UnusualCertificate::Authority.into();
    }
    error
}

/// What is wrong with the certificate of a peer, after "the certificate is not trusted: ".
pub fn certificate_in_words(fault: &CertificateError) -> String {
    use CertificateError as Fault;
    let words = match fault {
        Fault::BadEncoding => "it is not a valid X.509 certificate",
        Fault::Expired | Fault::ExpiredContext { .. } => "it has expired",
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            "it is not valid yet, or the clock of this machine is slow"
        }
        Fault::Revoked => "it has been revoked",
        Fault::UnhandledCriticalExtension => "it has a critical extension that is not supported",
        Fault::UnknownIssuer => "it was not issued by a trusted CA",
        Fault::UnknownRevocationStatus => "no revocation list covers it",
        Fault::ExpiredRevocationList | Fault::ExpiredRevocationListContext { .. } => {
            "the revocation list of its issuer has expired"
        }
        Fault::BadSignature => {
            "its signature does not fit the trusted CA of that name, which has another key"
        }
        Fault::UnsupportedSignatureAlgorithmContext { .. }
        | Fault::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed by an algorithm that is not supported, such as SHA-1"
        }
        Fault::NotValidForName => "it is valid for other names only",
        Fault::NotValidForNameContext { presented, .. } => return other_names(presented),
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
            "its extended key usage does not allow this use"
        }
        Fault::Other(other) => return other.0.to_string(),
        _ => "it has something that is not supported",
    };
    words.to_owned()
}

/// Names as webpki shows them, such as `DnsName("a.example.com")`.
fn other_names(presented: &[String]) -> String {
    const SHOWN: usize = 3;
    if presented.is_empty() {
        return "it has no subject alternative names".to_owned();
    }
    let plain = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest);
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    let names: Vec<String> = presented.iter().take(SHOWN).map(plain).collect();
    let more = match presented.len() > SHOWN {
        true => " and others",
        false => "",
    };
    format!("it is valid for {}{more} only", names.join(", "))
}

/// Why a handshake with a peer failed.
pub fn in_words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(fault) => {
            format!(
                "the certificate is not trusted: {}",
                certificate_in_words(fault)
            )
        }
        Error::InvalidCertRevocationList(fault) => {
            format!(
                "the revocation list cannot be used: {}",
                list_in_words(fault)
            )
        }
        Error::AlertReceived(alert) => alert_in_words(*alert),
        Error::InvalidMessage(_) => "the peer does not speak TLS".to_owned(),
        Error::PeerIncompatible(_) => {
            "the peer has no TLS version, cipher, group or signature algorithm in common with us"
                .to_owned()
        }
        Error::NoCertificatesPresented => "the peer presented no certificate".to_owned(),
        other => other.to_string(),
    }
}

/// Why a handshake over a stream failed.
pub fn in_words_of_io(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or_else(|| error.to_string(), in_words)
}

fn list_in_words(fault: &CertRevocationListError) -> String {
    match fault {
        CertRevocationListError::BadSignature => "its signature is wrong".to_owned(),
        CertRevocationListError::IssuerInvalidForCrl => {
            "its issuer may not sign revocation lists".to_owned()
        }
        CertRevocationListError::ParseError => "it is not a valid X.509 revocation list".to_owned(),
        _ => "it has something that is not supported".to_owned(),
    }
}

fn alert_in_words(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let words = match alert {
        Alert::CertificateRequired => "the peer requires a client certificate",
        Alert::UnknownCA => "the peer does not trust the issuer of our certificate",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            "the peer does not accept our certificate"
        }
        Alert::CertificateExpired => "the peer says that our certificate has expired",
        Alert::CertificateRevoked => "the peer says that our certificate has been revoked",
        Alert::HandshakeFailure | Alert::InsufficientSecurity => {
            "the peer has no cipher, group or signature algorithm in common with us"
        }
        Alert::ProtocolVersion => "the peer has no TLS version in common with us",
        Alert::UnrecognisedName => "the peer does not know the server name",
        Alert::NoApplicationProtocol => "the peer does not speak HTTP/1.1 (ALPN)",
        Alert::AccessDenied => "the peer denies access",
        Alert::InternalError => "the peer reports an internal error",
        other => match other.as_str() {
            Some(name) => return format!("the peer ended the handshake with the alert {name}"),
            None => "the peer ended the handshake with an unknown alert",
        },
    };
    words.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sentence_shows_how_rustls_is_written() {
        let context = CertificateError::NotValidForNameContext {
            expected: "a.example.com".try_into().unwrap(),
            presented: ["a", "b", "c", "d"]
                .map(|name| format!("DnsName(\"{name}.example\")"))
                .into(),
        };
        let errors = [
            (CertificateError::Expired.into(), "it has expired"),
            (
                context.into(),
                "it is valid for a.example, b.example, c.example and others only",
            ),
            (
                CertificateError::UnknownIssuer.into(),
                "it was not issued by a trusted CA",
            ),
            (
                UnusualCertificate::OldVersion.into(),
                "it is an X.509 certificate of version 1",
            ),
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "does not trust the issuer",
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                "no cipher, group or",
            ),
        ];
        for (error, expected) in errors {
            let said = in_words(&error);
            assert!(said.contains(expected), "{said}");
            let is_debug = said.contains("Context") || said.contains('{') || said.contains("Error");
            assert!(!is_debug, "{said}");
        }
    }
}
