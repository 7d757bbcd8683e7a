//! How an authority validates a name: by asking for the answer where the name leads to, here always loopback.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) struct Validation {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) token: String,
    /// The key authorization.
    pub(crate) answer: String,
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    pub(crate) records: PathBuf,
}

pub(crate) fn digest(bytes: &[u8]) -> Vec<u8> {
    ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
}

/// Whether the name answers as it should, or else why not.
pub(crate) async fn validate(validation: &Validation) -> Result<(), String> {
    match validation.kind.as_str() {
        "http-01" => by_http(validation).await,
        "tls-alpn-01" => by_tls(validation).await,
        "dns-01" => by_record(validation),
        other => Err(format!("unknown challenge {other}")),
    }
}

async fn by_http(validation: &Validation) -> Result<(), String> {
    let connected = TcpStream::connect(("127.0.0.1", validation.http_port)).await;
    let mut socket = connected.map_err(|error| format!("port 80: {error}"))?;
    let (token, name) = (&validation.token, &validation.name);
    let request = format!(
        "GET /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    );
    socket
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut response = String::new();
    socket
        .read_to_string(&mut response)
        .await
        .map_err(|error| error.to_string())?;
    let (head, body) = response.split_once("\r\n\r\n").ok_or("no response")?;
    if head.starts_with("HTTP/1.1 200") && body.trim_end() == validation.answer {
        return Ok(());
    }
    Err(format!(
        "not the key authorization: {}",
        head.lines().next().unwrap_or_default()
    ))
}

/// RFC 8737 section 3.
async fn by_tls(validation: &Validation) -> Result<(), String> {
    let connected = TcpStream::connect(("127.0.0.1", validation.tls_port)).await;
    let socket = connected.map_err(|error| format!("port 443: {error}"))?;
    let name = ServerName::try_from(validation.name.clone()).unwrap();
    let connecting = TlsConnector::from(accepting_any(b"acme-tls/1"))
        .connect(name, socket)
        .await;
    let stream = connecting.map_err(|error| format!("TLS handshake: {error}"))?;
    let (_, connection) = stream.get_ref();
    if connection.alpn_protocol() != Some(b"acme-tls/1") {
        return Err("the protocol acme-tls/1 was not agreed on".to_owned());
    }
    let leaf = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .ok_or("no certificate")?;
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names
        .map(|names| format!("{:?}", names.value.general_names))
        .unwrap_or_default();
    if names != format!("[DNSName({:?})]", validation.name) {
        return Err(format!("the certificate is for {names}"));
    }
    let identifier = parsed
        .extensions()
        .iter()
        .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    let expected = [&[4, 32], digest(validation.answer.as_bytes()).as_slice()].concat();
    match identifier {
        Some(found) if found.critical && found.value == expected => Ok(()),
        _ => Err("the extension is not the digest of the key authorization".to_owned()),
    }
}

fn by_record(validation: &Validation) -> Result<(), String> {
    let records = std::fs::read_to_string(&validation.records).unwrap_or_default();
    let value = BASE64.encode(digest(validation.answer.as_bytes()));
    let wanted = format!("_acme-challenge.{} {value}", validation.name);
    match records.lines().any(|line| line == wanted) {
        true => Ok(()),
        false => Err(format!("no record for {}", validation.name)),
    }
}

/// A client that accepts any certificate, and offers this protocol in ALPN.
pub(crate) fn accepting_any(protocol: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// The certificate is self-signed: what matters is in it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // rustls would not even parse it: it has a critical extension.
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
