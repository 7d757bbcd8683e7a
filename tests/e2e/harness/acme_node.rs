//! A node that keeps certificates, with what authorities connect to.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate::acme::AcmeKeepers;
use tidegate::acme::status::CertificateStatus;
use tidegate::config::model::{
    AcmeConfig, ChallengeKind, DnsMeans, DnsPublisher, HostPattern, KeyType, ManagedCertificate,
    Roots, UntilIssued,
};
use tidegate::https_client::service_traffic::ServiceTraffic;
use tidegate::net::managed_certificates::{ManagedCertificates, ServedCertificate};
use tidegate::upstream::connect::Connector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_rustls::TlsAcceptor;

use super::acme_ca::AcmeCa;
use super::within;

/// A node: its keepers, and listeners that answer challenges as tidegate's do.
pub(crate) struct AcmeNode {
    pub(crate) keepers: AcmeKeepers,
    pub(crate) managed: Arc<ManagedCertificates>,
    pub(crate) services: Arc<ServiceTraffic>,
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
}

impl AcmeNode {
    pub(crate) async fn start() -> Self {
        let managed = Arc::new(ManagedCertificates::default());
        let services = Arc::new(ServiceTraffic::default());
        let (control, connector) = (Handle::current(), Connector::default());
        let shared = Arc::clone(&managed);
        Self {
            keepers: AcmeKeepers::new(control, shared, connector, &services),
            services,
            http_port: answer_http(Arc::clone(&managed)).await,
            tls_port: answer_tls(Arc::clone(&managed)).await,
            managed,
        }
    }

    /// A node that keeps these certificates, and is where the authority connects to.
    pub(crate) async fn keeping(ca: &AcmeCa, wanted: &[ManagedCertificate]) -> Self {
        let mut node = Self::start().await;
        ca.change(|settings| {
            (settings.http_port, settings.tls_port) = (node.http_port, node.tls_port);
        });
        node.keepers.load(wanted).await.unwrap();
        node.keepers.apply(wanted);
        node
    }

    pub(crate) fn served(
        &self,
        certificate: &ManagedCertificate,
    ) -> Option<Arc<ServedCertificate>> {
        self.managed.slot(&certificate.id()).served()
    }

    /// Waits until the status of its first certificate is as wanted.
    pub(crate) async fn until(
        &self,
        what: &str,
        is_wanted: impl Fn(&CertificateStatus) -> bool,
    ) -> CertificateStatus {
        let mut changes = self.keepers.changes();
        within(what, async {
            loop {
                changes.borrow_and_update();
                let status = self.keepers.status().remove(0);
                if is_wanted(&status) {
                    return status;
                }
                changes.changed().await.unwrap();
            }
        })
        .await
    }

    /// Waits until an issued certificate is served.
    pub(crate) async fn until_issued(&self) -> Arc<ServedCertificate> {
        let is_issued = |status: &CertificateStatus| {
            let served = status.served.as_ref();
            !status.is_ordering && served.is_some_and(|served| !served.is_self_signed)
        };
        let status = self.until("a certificate", is_issued).await;
        status.served.unwrap()
    }
}

/// A certificate for these names from `ca`, by these challenges, kept below `state`.
pub(crate) fn wanted(
    ca: &AcmeCa,
    state: &Path,
    names: &[&str],
    challenges: &[ChallengeKind],
    change: impl FnOnce(&mut AcmeConfig),
) -> ManagedCertificate {
    let mut authority = AcmeConfig {
        name: "ca".into(),
        directory: ca.directory().into(),
        roots: Roots::Given(vec![ca.root()]),
        email: Some("ops@example.com".into()),
        profile: None,
        challenges: challenges.to_vec(),
        dns: None,
        external_account: None,
        state: state.to_owned(),
        until_issued: UntilIssued::Refuse,
        key_type: KeyType::EcdsaP256,
        shared: None,
    };
    if challenges.contains(&ChallengeKind::Dns01) {
        let (hook, records) = hook(state);
        ca.change(|settings| settings.records = records);
        authority.dns = Some(DnsPublisher {
            by: DnsMeans::Hook(vec![hook].into()),
            propagation: Duration::ZERO,
        });
    }
    change(&mut authority);
    let names = names.iter().map(|name| match name.strip_prefix("*.") {
        Some(parent) => HostPattern::Wildcard(parent.into()),
        None => HostPattern::Exact((*name).into()),
    });
    ManagedCertificate {
        names: names.collect(),
        authority: Arc::new(authority),
    }
}

/// A hook that notes records in a file, and the file.
pub(crate) fn hook(folder: &Path) -> (String, PathBuf) {
    let (path, records) = (folder.join("hook"), folder.join("records"));
    let shown = records.display();
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = present ]; then echo \"$2 $3\" >>{shown}; else grep -vxF -- \"$2 $3\" {shown} >{shown}.new; mv {shown}.new {shown}; fi\n"
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    (path.to_str().unwrap().to_owned(), records)
}

async fn answer_http(managed: Arc<ManagedCertificates>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = vec![0; 4096];
            let read = socket.read(&mut head).await.unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let path = head.split(' ').nth(1).unwrap_or_default();
            let response = match managed.challenges.http_answer(path) {
                Some(answer) => format!("HTTP/1.1 200 OK\r\n\r\n{answer}"),
                None => "HTTP/1.1 404 Not Found\r\n\r\n".to_owned(),
            };
            let _ = socket.write_all(response.as_bytes()).await;
        }
    });
    port
}

async fn answer_tls(managed: Arc<ManagedCertificates>) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ChallengeCertificates(managed)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = acceptor.accept(socket).await;
        }
    });
    port
}

#[derive(Debug)]
struct ChallengeCertificates(Arc<ManagedCertificates>);

impl ResolvesServerCert for ChallengeCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.challenges.tls_answer(hello.server_name()?)
    }
}

/// The files below a folder, by their paths in it.
pub(crate) fn files(folder: &Path) -> HashMap<String, Vec<u8>> {
    let mut found = HashMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(content) = std::fs::read(&path) {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), content);
            }
        }
    }
    found
}
