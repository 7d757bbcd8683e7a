//! TLS towards clients and towards endpoints, built from checked configuration.
//!
//! rustls is named here and in the stream only, so that its next interface is one file's work.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::ClientConfig;
use rustls::crypto::aws_lc_rs::cipher_suite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, ResolvesServerCert, ServerConfig, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};
use rustls_platform_verifier::BuilderVerifierExt;

use super::tickets::{HandoverTicketKey, TicketKeys, TicketKeysError};
use crate::config::model::{ClientAuth, EndpointTls, HostPattern, ListenerTls, Roots, TlsVersion};

/// The only protocol that we speak inside TLS, on either side (RFC 7301).
const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// Sessions remembered towards the endpoints of one upstream.
const SESSIONS_REMEMBERED: usize = 256;

/// Tickets that a client gets with each handshake of TLS 1.3: it opens one connection and, when that
/// ends, one again, and gets the next ticket then. Go's servers send one, OpenSSL's two.
const TICKETS_EACH: usize = 1;

/// What TLS could not be set up with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refused the settings.
    #[error("TLS settings: {0}")]
    Settings(#[from] rustls::Error),
    /// Clients' certificates cannot be verified.
    #[error("CA certificates for client authentication: {0}")]
    Clients(#[from] VerifierBuilderError),
    /// Session tickets cannot be made.
    #[error(transparent)]
    Tickets(#[from] TicketKeysError),
    /// A certificate authority cannot be used.
    #[error("the operating system's certificate authorities: {0}")]
    Platform(rustls::Error),
}

/// The keys of the tickets of listener `name`: those of the file, or else its own, which are kept
/// across reloads: with new ones every returning client would pay for a full handshake. None where
/// clients are asked for certificates: a session that is resumed is not verified again, and each
/// time brings a new ticket, so whoever has shown a certificate once would never have to again.
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

/// Keys that another process has handed over for the listener of this name.
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

/// What is spoken with clients, and which of it rather.
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

/// TLS towards clients.
///
/// # Errors
/// [`TlsError::Settings`].
pub fn listener(
    tls: &ListenerTls,
    tickets: Option<&Arc<TicketKeys>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let provider = CryptoProvider {
        cipher_suites: CHEAPEST_FIRST.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(client_verifier(tls.client_auth.as_ref())?)
        .with_cert_resolver(Arc::new(Certificates::of(tls)));
    // All of them are good, so that it is ours to choose what costs least.
    config.ignore_client_order = true;
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.send_tls13_tickets = match tickets {
        Some(tickets) => {
            config.ticketer = Arc::<TicketKeys>::clone(tickets);
            TICKETS_EACH
        }
        None => 0,
    };
    // TLS 1.2 resumes by ticket too; a memory of sessions would be a second way for nothing.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// How clients' certificates are judged.
fn client_verifier(
    client_auth: Option<&ClientAuth>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(client_auth) = client_auth else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let roots = store(&client_auth.authorities)?;
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
    let builder = if client_auth.required {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    Ok(builder.build()?)
}

/// TLS towards endpoints.
///
/// # Errors
/// [`TlsError`], when the authorities or our own certificate cannot be used.
pub fn endpoint(tls: &EndpointTls) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])?;
    let builder = match &tls.roots {
        Roots::Platform => builder
            .with_platform_verifier()
            .map_err(TlsError::Platform)?,
        Roots::Given(authorities) => builder.with_root_certificates(store(authorities)?),
    };
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

/// aws-lc-rs as it comes: X25519MLKEM768 first (the crate feature `prefer-post-quantum`).
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Which certificate a client gets, by the name it asks for.
#[derive(Debug)]
struct Certificates {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    fn of(tls: &ListenerTls) -> Self {
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for certificate in &tls.certificates {
            for name in &certificate.names {
                let (table, name) = match name {
                    HostPattern::Exact(name) => (&mut exact, name),
                    HostPattern::Wildcard(parent) => (&mut wildcard, parent),
                };
                // The first certificate in the file wins, as it does as the default.
                table
                    .entry(name.clone())
                    .or_insert_with(|| Arc::clone(&certificate.certified));
            }
        }
        let default = tls
            .certificates
            .first()
            .map(|first| Arc::clone(&first.certified));
        Self {
            exact,
            wildcard,
            default,
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcard.get(parent)
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and made it lower case.
        hello
            .server_name()
            .and_then(|name| self.find(name))
            .or(self.default.as_ref())
            .cloned()
    }
}
