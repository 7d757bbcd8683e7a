//! TLS of a probe: whose certificate it is, and whether it is to be believed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::Verifier;
use serde_json::json;
use tidegate::net::stream::{Socket, Stream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::leg::{Findings, LegFailure, LegOutcome};
use super::text::{harmless, some};
use super::url::Url;

/// Certificate authorities out of a file.
#[derive(Debug, Clone)]
pub(super) struct Authorities(Arc<RootCertStore>);

impl Authorities {
    /// Reads all of them; there is at least one.
    pub(super) fn read(path: &str) -> Result<Self, String> {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        let certificates: Vec<_> = read.map_err(|error| match error {
            pem::Error::Io(error) => format!("cannot read it: {error}"),
            _ => "it is not valid PEM".into(),
        })?;
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store
                .add(certificate)
                .map_err(|_| "it holds a certificate that cannot be read")?;
        }
        if store.is_empty() {
            return Err("it holds no certificate in PEM".into());
        }
        Ok(Self(Arc::new(store)))
    }
}

/// Whom we believe.
#[derive(Debug)]
pub(super) struct ServerTrust {
    judge: Result<Arc<dyn ServerCertVerifier>, String>,
    insecure: bool,
}

impl ServerTrust {
    /// The authorities in the file, or else the operating system's; nobody has to be believed if it
    /// is `insecure`.
    pub(super) fn of(given: Option<&Authorities>, insecure: bool) -> Self {
        let judge = match given {
            Some(Authorities(roots)) => {
                WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider())
                    .build()
                    .map(|judge| judge as Arc<dyn ServerCertVerifier>)
                    .map_err(|error| error.to_string())
            }
            None => Verifier::new(provider())
                .map(|judge| Arc::new(judge) as Arc<dyn ServerCertVerifier>)
                .map_err(|error| format!("the operating system's authorities: {error}")),
        };
        Self { judge, insecure }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Judges, and remembers what it has seen, also where that leads no further.
#[derive(Debug)]
struct RecordingVerifier {
    judge: Result<Arc<dyn ServerCertVerifier>, String>,
    insecure: bool,
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<ShownCertificate>>,
}

/// A certificate that was shown.
#[derive(Debug)]
struct ShownCertificate {
    certificate: CertificateDer<'static>,
    /// Why it is not to be believed.
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
        let judged = match &self.judge {
            Ok(judge) => {
                judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            Err(why) => Err(Error::General(why.clone())),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(ShownCertificate {
            certificate: end_entity.clone().into_owned(),
            fault: judged.as_ref().err().cloned(),
        });
        match judged {
            Err(_) if self.insecure => Ok(ServerCertVerified::assertion()),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Does the TLS handshake on `socket`.
pub(super) async fn begin(url: &Url, trust: &ServerTrust, socket: Socket) -> LegOutcome<Stream> {
    let name = ServerName::try_from(url.host.to_string())
        .map_err(|_| LegFailure::new(format!("`{}` is no name for TLS", url.host)))?;
    let witness = Arc::new(RecordingVerifier {
        judge: trust.judge.clone(),
        insecure: trust.insecure,
        provider: provider(),
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
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, socket);
    let connected = connecting.await;
    let seen = witness
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match connected {
        Ok(stream) => {
            let told = of_certificate(agreed(&stream), seen.as_ref());
            Ok((Stream::Endpoint(Box::new(stream)), told))
        }
        Err(error) => Err(failure(&error, seen.as_ref())),
    }
}

fn agreed(stream: &TlsStream<Socket>) -> Findings {
    let agreed = stream.get_ref().1;
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

/// Whose it is, until when, from whom, and whether that is to be believed.
fn of_certificate(told: Findings, seen: Option<&ShownCertificate>) -> Findings {
    let Some(seen) = seen else { return told };
    let fault = seen.fault.as_ref().map(spelled);
    let Ok((_, certificate)) = X509Certificate::from_der(&seen.certificate) else {
        return told.line("a certificate that cannot be read");
    };
    let names = names(&certificate);
    let issuer = harmless(&certificate.issuer().to_string());
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
    let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end));
    let until = end.map_or_else(String::new, |end| {
        humantime::format_rfc3339_seconds(end).to_string()
    });
    let told = told
        .line(format!("certificate of {}", some(&names)))
        .line(format!(
            "until {until}{}",
            end.map_or_else(String::new, away)
        ))
        .line(format!("issued by {issuer}"));
    let told = match &fault {
        Some(fault) => told.line(format!("not to be believed: {fault}")),
        None => told,
    };
    told.fact(
        "certificate",
        json!({
            "names": names,
            "issuer": issuer,
            "not_after": until,
            "fault": fault,
        }),
    )
}

/// How far away that is, in days.
fn away(end: SystemTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let now = SystemTime::now();
    match end.duration_since(now) {
        Ok(left) => format!(" ({} days left)", left.as_secs() / DAY),
        Err(past) => format!(" ({} days ago)", past.duration().as_secs() / DAY),
    }
}

/// The names that it is for, or else whom it is about.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map_or(&[][..], |extension| &extension.value.general_names);
    let names: Vec<String> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(harmless(name)),
            GeneralName::IPAddress(bytes) => address(bytes),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return vec![harmless(&certificate.subject().to_string())];
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

/// What is wrong with a certificate, in a few words.
fn spelled(fault: &Error) -> String {
    use CertificateError as Fault;
    let Error::InvalidCertificate(fault) = fault else {
        return fault.to_string();
    };
    match fault {
        Fault::UnknownIssuer => "no authority that is believed has issued it".into(),
        Fault::Expired | Fault::ExpiredContext { .. } => "its time is over".into(),
        Fault::NotValidYet | Fault::NotValidYetContext { .. } => {
            "its time has not begun yet".into()
        }
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "it is for other names".into()
        }
        other => other.to_string(),
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
                "put a name of the certificate into the URL (`--resolve ADDRESS` leads to the same \
                 place), or go on with `--insecure`"
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => "it has to be renewed; `--insecure` goes on with it",
            _ => "`--ca FILE` believes the authority in FILE, `--insecure` goes on without",
        };
        let told = of_certificate(Findings::default().line("failed"), seen);
        return LegFailure::new(format!(
            "the certificate is not to be believed: {}",
            spelled(fault)
        ))
        .hint(hint)
        .told(told);
    }
    match inner {
        Some(Error::InvalidMessage(_)) => {
            LegFailure::new("what answers does not speak TLS").hint("try ws:// instead of wss://")
        }
        Some(fault) => LegFailure::new(fault.to_string()),
        None if error.kind() == io::ErrorKind::UnexpectedEof => LegFailure::new(
            "the connection was ended within the TLS handshake",
        )
        .hint(
            "does it speak TLS, and without a PROXY header before it? try ws:// instead of wss://",
        ),
        None => LegFailure::new(error.to_string()),
    }
}
