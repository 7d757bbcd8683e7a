//! Why the TLS handshake with a client failed, by cause.

use std::io;

use rustls::{AlertDescription, Error, InvalidMessage, PeerIncompatible};

/// The error of rustls if the resolver of certificates has none.
const NO_CERTIFICATE: &str = "no server certificate chain resolved";

/// The cause of a failed TLS handshake with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailure {
    /// The client does not accept the certificate, and says so.
    CertificateRejected,
    /// The client closed the connection during the handshake.
    Closed,
    /// The client did not finish the handshake in time.
    Timeout,
    /// The client offers no TLS version that the listener accepts.
    Version,
    /// Client and listener have no cipher, key exchange or signature in common.
    Incompatible,
    /// The client certificate is missing or not valid.
    ClientCertificate,
    /// What the client sent is not TLS.
    NotTls,
    /// There is no certificate for the name yet.
    NoCertificate,
    /// The client wants to validate a name by `tls-alpn-01`, and no challenge is open for it.
    Validation,
    /// Anything else.
    Other,
}

impl TlsFailure {
    /// All causes, in order.
    pub const ALL: [Self; 10] = [
        Self::CertificateRejected,
        Self::Closed,
        Self::Timeout,
        Self::Version,
        Self::Incompatible,
        Self::ClientCertificate,
        Self::NotTls,
        Self::NoCertificate,
        Self::Validation,
        Self::Other,
    ];

    /// The stable token.
    pub fn token(self) -> &'static str {
        match self {
            Self::CertificateRejected => "certificate-rejected",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Version => "version",
            Self::Incompatible => "incompatible",
            Self::ClientCertificate => "client-certificate",
            Self::NotTls => "not-tls",
            Self::NoCertificate => "no-certificate",
            Self::Validation => "validation",
            Self::Other => "other",
        }
    }

    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::CertificateRejected => {
                "check that the certificate has the name that clients use, has not expired, and comes with its \
                 intermediate certificates"
            }
            Self::Closed => {
                "many clients close without a reason if they do not trust the certificate; \
                 `tidegate probe` shows whether it is trusted"
            }
            Self::Timeout => {
                "the client began the handshake and did not continue it; check whether large packets are lost \
                 on the way"
            }
            Self::Version => {
                "the client supports no TLS version that the listener accepts; update the client, or lower \
                 `min_version`"
            }
            Self::Incompatible => {
                "client and listener have no cipher in common, or the client does not support the type of the \
                 certificate's key"
            }
            Self::ClientCertificate => {
                "the client must present a valid certificate that a CA in `client_auth` has issued"
            }
            Self::NotTls => {
                "the client must use wss:// or https:// on this port; if a load balancer sends PROXY headers, \
                 set `proxy_protocol`"
            }
            Self::NoCertificate => {
                "tidegate has not obtained a certificate for the name yet: `tidegate certificates` shows why"
            }
            Self::Validation => {
                "scanners do this; if it was your certificate authority, another node has asked it to, or it came late"
            }
            Self::Other => "the client's TLS library may be faulty",
        }
    }

    /// The cause of this error of a handshake.
    pub fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        inner.map_or(Self::Closed, Self::of_tls)
    }

    fn of_tls(error: &Error) -> Self {
        match error {
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                // TLS 1.1 does not know the extension, and nothing later comes without it.
                | PeerIncompatible::SignatureAlgorithmsExtensionRequired
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => Self::Version,
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Self::Incompatible,
            Error::NoCertificatesPresented
            | Error::InvalidCertificate(_)
            | Error::InvalidCertRevocationList(_) => Self::ClientCertificate,
            Error::General(message) if message == NO_CERTIFICATE => Self::NoCertificate,
            // The first byte of a record says what it is.
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            Error::InvalidMessage(InvalidMessage::UnknownProtocolVersion) => Self::Version,
            _ => Self::Other,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        use AlertDescription as Alert;
        match alert {
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::BadCertificateStatusResponse
            // A signature in the chain is wrong: another CA has the same name.
            | Alert::DecryptError => Self::CertificateRejected,
            Alert::ProtocolVersion | Alert::InappropriateFallback => Self::Version,
            Alert::HandshakeFailure
            | Alert::InsufficientSecurity
            | Alert::NoApplicationProtocol => Self::Incompatible,
            Alert::UserCanceled | Alert::CloseNotify => Self::Closed,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_and_in_the_order_of_the_counters() {
        for (position, failure) in TlsFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, position, "counters are indexed by it");
            let same = TlsFailure::ALL.iter();
            let same = same.filter(|other| other.token() == failure.token());
            assert_eq!(same.count(), 1, "{failure:?}");
        }
    }

    #[test]
    fn errors_have_causes() {
        let tls = |error: Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let alert = |alert| tls(Error::AlertReceived(alert));
        for (error, cause) in [
            (
                alert(AlertDescription::UnknownCA),
                TlsFailure::CertificateRejected,
            ),
            (
                alert(AlertDescription::DecryptError),
                TlsFailure::CertificateRejected,
            ),
            (
                alert(AlertDescription::CertificateExpired),
                TlsFailure::CertificateRejected,
            ),
            (
                alert(AlertDescription::ProtocolVersion),
                TlsFailure::Version,
            ),
            (
                alert(AlertDescription::HandshakeFailure),
                TlsFailure::Incompatible,
            ),
            (alert(AlertDescription::UserCanceled), TlsFailure::Closed),
            (alert(AlertDescription::DecodeError), TlsFailure::Other),
            (
                tls(PeerIncompatible::NoSignatureSchemesInCommon.into()),
                TlsFailure::Incompatible,
            ),
            (
                tls(Error::NoCertificatesPresented),
                TlsFailure::ClientCertificate,
            ),
            (
                tls(InvalidMessage::InvalidContentType.into()),
                TlsFailure::NotTls,
            ),
            (tls(Error::DecryptError), TlsFailure::Other),
            (io::ErrorKind::UnexpectedEof.into(), TlsFailure::Closed),
            (io::ErrorKind::ConnectionReset.into(), TlsFailure::Closed),
        ] {
            assert_eq!(TlsFailure::of(&error), cause, "{error}");
        }
    }
}
