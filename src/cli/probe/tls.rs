//! The TLS handshake of a probe: the server's certificate, and whether it is trusted.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::json;
use tidegate::config::model::{Roots, host_names, issuer_name};
use tidegate::net::certificate_fault::{certificate_in_words, in_words};
use tidegate::net::server_verifier::ServerVerifier;
use tidegate::net::stream::{Socket, Stream, TlsStream};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::{first_few, printable};
use super::url::Url;

/// CA certificates from a file, or servers' own certificates.
#[derive(Debug, Clone)]
pub(super) struct Authorities(Roots);

impl Authorities {
    /// Reads all certificates in a file: at least one.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let certificates: Vec<_> = read.map_err(|error| match error {
            pem::Error::Io(error) => format!("cannot read the file: {error}"),
            _ => "the file is not valid PEM".into(),
        })?;
        if certificates.is_empty() {
            return Err("the file does not contain a PEM certificate".into());
        }
        let roots = Roots::Given(certificates);
        ServerVerifier::new(&roots, &[], &provider())
            .map_err(|_| "the file contains an invalid certificate")?;
        Ok(Self(roots))
    }
}

/// Which server certificates are trusted.
#[derive(Debug, Clone)]
pub(super) struct ServerTrust {
    verifier: Arc<ServerVerifier>,
    /// Why none is, if that cannot be found out.
    unusable: Option<String>,
    insecure: bool,
}

impl ServerTrust {
    /// Trusts the CA certificates in the file, or else the operating system's; with `insecure`, every
    /// certificate is accepted.
    pub(super) fn of(given: Option<&Authorities>, insecure: bool) -> Self {
        let roots = given.map_or(&Roots::Platform, |Authorities(roots)| roots);
        let (verifier, unusable) = match ServerVerifier::new(roots, &[], &provider()) {
            Ok(verifier) => (verifier, None),
            Err(error) => {
                let why = format!("the CA certificates of the operating system: {error}");
                (ServerVerifier::trusting_none(&provider()), Some(why))
            }
        };
        Self {
            verifier: Arc::new(verifier),
            unusable,
            insecure,
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Verifies a server certificate and keeps it for the report, even if it is not trusted.
#[derive(Debug)]
struct RecordingVerifier {
    trust: ServerTrust,
    seen: Mutex<Option<ShownCertificate>>,
}

/// The certificate that the server presented.
#[derive(Debug)]
struct ShownCertificate {
    certificate: CertificateDer<'static>,
    /// Why the certificate is not trusted.
    fault: Option<Error>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ServerTrust {
            verifier, unusable, ..
        } = &self.trust;
        let judged = match unusable {
            None => verifier.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            Some(why) => Err(Error::General(why.clone())),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(ShownCertificate {
            certificate: end_entity.clone().into_owned(),
            fault: judged.as_ref().err().cloned(),
        });
        match judged {
            Err(_) if self.trust.insecure => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust
            .verifier
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust
            .verifier
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.verifier.supported_verify_schemes()
    }
}

/// Performs the TLS handshake on `socket`.
pub(super) async fn begin(url: &Url, trust: &ServerTrust, socket: Socket) -> LegOutcome<Stream> {
    let name = ServerName::try_from(url.host.to_string())
        .map_err(|_| LegFailure::new(format!("`{}` is not a valid TLS server name", url.host)))?;
    let witness = Arc::new(RecordingVerifier {
        trust: trust.clone(),
        seen: Mutex::new(None),
    });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<RecordingVerifier>::clone(&witness);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| LegFailure::new(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let connected = TlsStream::connect(Arc::new(config), name, socket).await;
    let seen = witness
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match connected {
        Ok(stream) => {
            let findings = of_certificate(agreed(&stream), seen.as_ref());
            Ok((Stream::Tls(Box::new(stream)), findings))
        }
        Err(error) => Err(failure(&error, seen.as_ref())),
    }
}

fn agreed(stream: &TlsStream) -> Findings {
    let agreed = stream.agreed();
    let version = agreed
        .protocol_version()
        .and_then(|version| version.as_str());
    let version = version.unwrap_or_default().replace('_', ".");
    let suite = agreed.negotiated_cipher_suite();
    let cipher = suite
        .and_then(|suite| suite.suite().as_str())
        .unwrap_or_default();
    let group = agreed.negotiated_key_exchange_group();
    let group = group
        .and_then(|group| group.name().as_str())
        .unwrap_or_default();
    Findings::default()
        .line(format!("{version}, {cipher}, {group}"))
        .fact("version", version)
        .fact("cipher", cipher)
        .fact("key_exchange", group)
}

/// Adds the certificate's names, expiry and issuer, and why it is not trusted.
fn of_certificate(findings: Findings, seen: Option<&ShownCertificate>) -> Findings {
    let Some(seen) = seen else { return findings };
    let fault = seen.fault.as_ref().map(fault_in_words);
    let Ok((_, certificate)) = X509Certificate::from_der(&seen.certificate) else {
        return findings.line("the certificate is not valid");
    };
    let names = names(&certificate);
    let issuer = printable(&issuer_name(&certificate));
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end));
    let until = end.map_or_else(String::new, |end| {
        humantime::format_rfc3339_seconds(end).to_string()
    });
    let findings = findings
        .line(format!("certificate of {}", first_few(&names)))
        .line(format!(
            "until {until}{}",
            end.map_or_else(String::new, away)
        ))
        .line(format!("issued by {issuer}"));
    let findings = match &fault {
        Some(fault) => findings.line(format!("not trusted: {fault}")),
        None => findings,
    };
    findings.fact(
        "certificate",
        json!({
            "names": names,
            "issuer": issuer,
            "not_after": until,
            "fault": fault,
        }),
    )
}

/// The distance to the expiry, in days.
fn away(end: SystemTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let now = SystemTime::now();
    match end.duration_since(now) {
        Ok(left) => format!(" ({} days left)", left.as_secs() / DAY),
        Err(past) => format!(" ({} days ago)", past.duration().as_secs() / DAY),
    }
}

/// The names that a certificate is valid for, or else its subject.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let addresses = alternative.map_or(&[][..], |extension| &extension.value.general_names);
    let addresses = addresses.iter().filter_map(|name| match name {
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    });
    let names = host_names(certificate).into_iter();
    let names = names.map(|name| printable(&name));
    let names: Vec<String> = names.chain(addresses).collect();
    if names.is_empty() {
        return vec![printable(&certificate.subject().to_string())];
    }
    names
}

fn address(bytes: &[u8]) -> Option<String> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        _ => None,
    }
}

/// Why a certificate is not trusted, in a few words.
fn fault_in_words(fault: &Error) -> String {
    match fault {
        Error::InvalidCertificate(fault) => certificate_in_words(fault),
        other => in_words(other),
    }
}

fn failure(error: &io::Error, seen: Option<&ShownCertificate>) -> LegFailure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(ShownCertificate {
        fault: Some(fault), ..
    }) = seen
    {
        let hint = match fault {
            Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => {
                "use a name of the certificate in the URL (with `--resolve ADDRESS` to reach the same \
                 server), or continue with `--insecure`"
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => "renew the certificate, or continue with `--insecure`",
            _ => {
                "use `--ca FILE` to trust the CA certificate in FILE, or continue with `--insecure`"
            }
        };
        let findings = of_certificate(Findings::default().line("failed"), seen);
        return LegFailure::new(in_words(fault))
            .hint(hint)
            .findings(findings);
    }
    match inner {
        Some(Error::InvalidMessage(_)) => {
            LegFailure::new("the server does not speak TLS").hint("try ws:// instead of wss://")
        }
        Some(fault) => LegFailure::new(fault.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => LegFailure::new(
            "the server closed the connection during the TLS handshake",
        )
        .hint(
            "the server may not speak TLS (try ws:// instead of wss://), or it may require a PROXY header",
        ),
        None => LegFailure::new(error.to_string()),
    }
}
