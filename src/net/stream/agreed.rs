//! What was agreed in the TLS handshake with a client.

use rustls::{HandshakeKind, ProtocolVersion};

use super::{Stream, TlsStream};
use crate::net::managed_certificates::ALPN_ACME;
use crate::protocol::certificate::{ClientCertificate, TlsFacts};

/// HTTP/2 inside TLS (RFC 9113 section 3.2).
pub(in crate::net) const ALPN_HTTP_2: &[u8] = b"h2";

/// A client certificate was verified but cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's certificate cannot be read")]
pub struct UnreadableCertificate;

impl Stream {
    /// Whether this connection is a certificate authority's, which has validated a name by `tls-alpn-01`.
    pub fn validates_name(&self) -> bool {
        self.agreed_protocol() == Some(ALPN_ACME)
    }

    /// Whether the client has chosen HTTP/2 in the TLS handshake.
    pub fn alpn_is_h2(&self) -> bool {
        self.agreed_protocol() == Some(ALPN_HTTP_2)
    }

    fn agreed_protocol(&self) -> Option<&[u8]> {
        self.tls_with_client()?.agreed().alpn_protocol()
    }

    fn tls_with_client(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(&**stream).filter(|stream| stream.is_with_client()),
            _ => None,
        }
    }

    /// The negotiated TLS version, and whether a session was resumed; `None` but for TLS with a client.
    pub fn tls_version(&self) -> Option<(&'static str, bool)> {
        let agreed = self.tls_with_client()?.agreed();
        let resumed = agreed.handshake_kind() == Some(HandshakeKind::Resumed);
        Some((version_name(agreed.protocol_version()), resumed))
    }

    /// What was negotiated, and the client's certificate; `None` but for TLS with a client.
    ///
    /// # Errors
    /// [`UnreadableCertificate`]: the client could not be described to endpoints.
    pub fn tls_facts(&self) -> Result<Option<TlsFacts>, UnreadableCertificate> {
        let Some(stream) = self.tls_with_client() else {
            return Ok(None);
        };
        let agreed = stream.agreed();
        let certificate = match agreed.peer_certificates() {
            Some(chain) => Some(ClientCertificate::parse(chain).ok_or(UnreadableCertificate)?),
            None => None,
        };
        Ok(Some(TlsFacts {
            version: version_name(agreed.protocol_version()),
            cipher: agreed
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or_default(),
            server_name: stream.server_name().map(Into::into),
            certificate,
        }))
    }
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "",
    }
}
