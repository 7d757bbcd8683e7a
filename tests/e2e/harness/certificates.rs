//! Certificates made on the spot, and TLS settings that believe them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig};

/// A certificate authority of the test's own.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Writes `NAME.pem` and `NAME.key`, a certificate for these hosts.
    pub(crate) fn issue(&self, folder: &Path, name: &str, hosts: &[&str]) {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(hosts).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write(&folder.join(format!("{name}.key")), &key.serialize_pem());
        write(&folder.join(format!("{name}.pem")), &certificate.pem());
    }

    /// Writes the authority's own certificate.
    pub(crate) fn write(&self, path: &Path) {
        write(path, &self.pem);
    }

    /// A client that believes this authority.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS)
    }

    /// The same, for some versions of TLS only.
    pub(crate) fn client_of(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        Arc::new(self.believer(versions).with_no_client_auth())
    }

    fn believer(
        &self,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
            .unwrap();
        roots
    }

    /// A client that believes this authority, and shows a certificate of `issuer`'s for `subject`.
    pub(crate) fn client_showing(&self, issuer: &Self, subject: &str) -> Arc<ClientConfig> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer.issuer).unwrap();
        let chain = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let believer = self.believer(rustls::ALL_VERSIONS);
        Arc::new(believer.with_client_auth_cert(chain, key).unwrap())
    }

    /// A server with a certificate for these hosts; asks for ours, signed by the same authority,
    /// if `mutual`.
    pub(crate) fn server(&self, folder: &Path, hosts: &[&str], mutual: bool) -> Arc<ServerConfig> {
        self.issue(folder, "server", hosts);
        let chain = vec![CertificateDer::from_pem_file(folder.join("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            self.roots().into(),
            provider,
        )
        .build()
        .unwrap();
        let builder = if mutual {
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

/// As renewal tools do it: nobody ever sees half a file, and nobody else a key.
pub(crate) fn write(path: &Path, text: &str) {
    let aside = path.with_extension("new");
    std::fs::write(&aside, text).unwrap();
    if path.extension().is_some_and(|extension| extension == "key") {
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&aside, private).unwrap();
    }
    std::fs::rename(aside, path).unwrap();
}
