//! Verifies the certificate of a server that tidegate or its operator connects to.
//!
//! Beside what the Web's PKI knows, there are two ways to trust one certificate: to list it as it is among the CA
//! certificates, and to pin its fingerprint. Neither needs a CA, and neither turns verification off.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::certificate_fault::{UnusualCertificate, explained};
use crate::config::model::{CertificateFingerprint, CertificateLife, Roots};

/// Verifies the certificates of servers.
#[derive(Debug)]
pub struct ServerVerifier {
    /// Chains that end at a CA; `None` if there is none.
    chains: Option<Arc<dyn ServerCertVerifier>>,
    /// Certificates that are trusted as they are, if name and dates are right.
    listed: Vec<CertificateDer<'static>>,
    /// Certificates that are trusted whatever they say.
    pinned: Vec<CertificateFingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerVerifier {
    /// Trusts `roots`, or if there are any, only the certificates with the fingerprints `pinned`.
    ///
    /// # Errors
    /// A CA certificate cannot be used; those of the operating system cannot be read.
    pub fn new(
        roots: &Roots,
        pinned: &[CertificateFingerprint],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let (chains, listed): (Option<Arc<dyn ServerCertVerifier>>, _) = match roots {
            _ if !pinned.is_empty() => (None, Vec::new()),
            Roots::Platform => (
                Some(Arc::new(Verifier::new(Arc::clone(provider))?)),
                Vec::new(),
            ),
            Roots::Given(authorities) => {
                let mut store = RootCertStore::empty();
                for authority in authorities.iter().filter(|it| may_issue(it)) {
                    store.add(authority.clone())?;
                }
                if store.is_empty() {
                    return Ok(Self::of(None, authorities.clone(), pinned, provider));
                }
                let chains =
                    WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(provider));
                let chains = chains
                    .build()
                    .map_err(|error| Error::General(error.to_string()))?;
                (Some(chains), authorities.clone())
            }
        };
        Ok(Self::of(chains, listed, pinned, provider))
    }

    /// Trusts no certificate.
    pub fn trusting_none(provider: &Arc<CryptoProvider>) -> Self {
        Self::of(None, Vec::new(), &[], provider)
    }

    fn of(
        chains: Option<Arc<dyn ServerCertVerifier>>,
        listed: Vec<CertificateDer<'static>>,
        pinned: &[CertificateFingerprint],
        provider: &Arc<CryptoProvider>,
    ) -> Self {
        Self {
            chains,
            listed,
            pinned: pinned.to_vec(),
            provider: Arc::clone(provider),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.pinned.is_empty() {
            let presented = CertificateFingerprint::of(end_entity);
            return match self.pinned.contains(&presented) {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(UnusualCertificate::OtherFingerprint.into()),
            };
        }
        let is_listed = self.listed.iter().any(|listed| **listed == **end_entity);
        let judged = match &self.chains {
            _ if is_listed => verify_listed(end_entity, server_name, now),
            None => Err(CertificateError::UnknownIssuer.into()),
            Some(chains) => chains.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
        };
        judged.map_err(|error| explained(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
            .map_err(|error| explained(error, cert))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
            .map_err(|error| explained(error, cert))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Whether a listed certificate may issue others: not if it says that it belongs to an end entity.
fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return true;
    };
    let constraints = parsed.basic_constraints().ok().flatten();
    constraints.is_none_or(|constraints| constraints.value.ca)
}

/// Verifies a certificate that is itself trusted: there is no chain, and what `openssl req -x509` creates is a CA
/// certificate, which the Web's PKI does not accept from a server.
fn verify_listed(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let named = ParsedCertificate::try_from(certificate)?;
    let (_, dated) =
        X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let life = CertificateLife::of(&dated);
    let [not_before, not_after] = [life.not_before, life.not_after]
        .map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default())
        .map(UnixTime::since_unix_epoch);
    if now < not_before {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        }
        .into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after,
        }
        .into());
    }
    verify_server_name(&named, server_name)?;
    Ok(ServerCertVerified::assertion())
}
