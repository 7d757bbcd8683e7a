//! TLS for client connections and for endpoints, built from checked configuration.
//!
//! Only this file, `certificates`, `stream` and `tls_failure` know what rustls is like, so that a new version of its interface
//! changes little else.

use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};

use super::certificates::Certificates;
use super::managed_certificates::{ALPN_ACME, ManagedCertificates};
use super::server_verifier::ServerVerifier;
use super::stream::ALPN_HTTP_2;
use super::tls_tickets::{HandoverTicketKey, TicketKeys, TicketKeysError};
use crate::config::model::{ClientAuth, EndpointTls, ListenerTls, Roots, TlsVersion};

/// HTTP/1.1 inside TLS, on either side (RFC 7301).
const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// TLS sessions that are remembered per upstream, for resumption with its endpoints.
const SESSIONS_REMEMBERED: usize = 256;

/// Tickets per TLS 1.3 handshake. A WebSocket client opens one connection at a time, and gets the next
/// ticket when it reconnects. Go's servers send one, OpenSSL's two.
const TICKETS_EACH: usize = 1;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls rejects the settings.
    #[error("TLS settings: {0}")]
    Settings(#[from] rustls::Error),
    /// The CA certificates for client authentication cannot be used.
    #[error("CA certificates for client authentication: {0}")]
    Clients(#[from] VerifierBuilderError),
    /// No session ticket key can be created.
    #[error(transparent)]
    Tickets(#[from] TicketKeysError),
    /// The CA certificates of the operating system cannot be used.
    #[error("CA certificates of the operating system: {0}")]
    Platform(rustls::Error),
}

/// The session ticket keys of listener `name`: those of its file, or generated ones. Generated keys are kept
/// across reloads, because new ones would cost every returning client a full handshake. There are none
/// where clients are asked for certificates: a resumed session is not verified again, and each resumption
/// brings a new ticket, so a client would have to present its certificate only once, ever.
///
/// # Errors
/// [`TlsError::Tickets`].
pub fn ticket_keys(
    name: &str,
    tls: &ListenerTls,
    before: Option<&Arc<TicketKeys>>,
) -> Result<Option<Arc<TicketKeys>>, TlsError> {
    if tls.client_auth.is_some() {
        return Ok(None);
    }
    let scope = ticket_scope(name);
    Ok(Some(match (&tls.ticket_keys, before) {
        (Some(file), _) => Arc::new(TicketKeys::given(&file.secrets, &scope)?),
        (None, Some(own)) if own.are_own() => Arc::clone(own),
        (None, _) => Arc::new(TicketKeys::own(&scope)?),
    }))
}

/// Ticket keys that a predecessor has handed over for the listener of this name.
///
/// # Errors
/// [`TlsError::Tickets`].
pub fn inherited_ticket_keys(
    name: &str,
    keys: Vec<HandoverTicketKey>,
) -> Result<Arc<TicketKeys>, TlsError> {
    Ok(Arc::new(TicketKeys::taken_over(keys, &ticket_scope(name))?))
}

fn ticket_scope(name: &str) -> String {
    format!("listener {name}, no client certificates")
}

/// The cipher suites for clients, in order of preference.
const CHEAPEST_FIRST: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The TLS configuration of a listener. With `http2`, clients may choose HTTP/2.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn listener(
    tls: &ListenerTls,
    tickets: Option<&Arc<TicketKeys>>,
    managed: &Arc<ManagedCertificates>,
    http2: bool,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let certificates = Certificates::of(tls, managed);
    // In this order of preference: only a client that offers nothing else gets `acme-tls/1`.
    let mut protocols = match http2 {
        true => vec![ALPN_HTTP_2.to_vec(), ALPN_HTTP_1_1.to_vec()],
        false => vec![ALPN_HTTP_1_1.to_vec()],
    };
    if certificates.answer_challenges() {
        protocols.push(ALPN_ACME.to_vec());
    }
    let provider = CryptoProvider {
        cipher_suites: CHEAPEST_FIRST.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(client_verifier(tls.client_auth.as_ref())?)
        .with_cert_resolver(Arc::new(certificates));
    // All of these suites are secure, so the server may choose the one that costs it least.
    config.ignore_client_order = true;
    config.alpn_protocols = protocols;
    config.send_tls13_tickets = match tickets {
        Some(tickets) => {
            config.ticketer = Arc::<TicketKeys>::clone(tickets);
            TICKETS_EACH
        }
        None => 0,
    };
    // TLS 1.2 resumes by ticket as well: a session cache would only be a second way to do it.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The TLS configuration of the admin interface; `None` for plain text. Its certificates are in files.
///
/// # Errors
/// [`TlsError::Settings`], [`TlsError::Clients`].
pub fn admin(tls: Option<&ListenerTls>) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    tls.map(|tls| listener(tls, None, &Arc::default(), false))
        .transpose()
}

/// The verifier of client certificates.
fn client_verifier(
    client_auth: Option<&ClientAuth>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(client_auth) = client_auth else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let roots = store(&client_auth.authorities)?;
    let revocations = &client_auth.revocations;
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider())
        .with_crls(revocations.lists.iter().cloned());
    let builder = match revocations.accept_expired {
        true => builder,
        false => builder.enforce_revocation_expiration(),
    };
    let builder = if client_auth.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    Ok(builder.build()?)
}

/// The TLS configuration for the endpoints of an upstream.
///
/// # Errors
/// [`TlsError`]: the CA certificates or the client certificate cannot be used.
pub fn endpoint(tls: &EndpointTls) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let verifier = ServerVerifier::new(&tls.roots, &tls.pinned, &provider());
    let verifier = verifier.map_err(|error| match tls.roots {
        Roots::Platform => TlsError::Platform(error),
        Roots::Given(_) => error.into(),
    })?;
    // Dangerous to rustls because it could accept anything; this one verifies.
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(
            rustls::sign::SingleCertAndKey::from(Arc::clone(own)),
        )),
    };
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_REMEMBERED);
    Ok(Arc::new(config))
}

fn store(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, rustls::Error> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(authority.clone())?;
    }
    Ok(store)
}

/// The default provider of aws-lc-rs: X25519MLKEM768 first (the crate feature `prefer-post-quantum`).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
