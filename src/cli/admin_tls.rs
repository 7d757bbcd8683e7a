//! TLS to an admin interface at `https://`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tidegate::config::model::{EndpointTls, Roots};
use tidegate::net::certificate_fault::in_words_of_io;
use tidegate::net::tls;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::unreached::Unreached;

/// Which admin interface a command trusts, and the certificate that it presents there.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct AdminTls {
    /// Trust the CA certificates in this PEM file for an admin interface at https://, instead of those of the
    /// operating system
    #[arg(long = "admin-ca", value_name = "FILE", env = "TIDEGATE_ADMIN_CA")]
    admin_ca: Option<PathBuf>,
    /// Client certificate for an admin interface that requires one (`admin.tls.client_ca`)
    #[arg(
        long = "admin-cert",
        value_name = "FILE",
        env = "TIDEGATE_ADMIN_CERT",
        requires = "admin_key"
    )]
    admin_cert: Option<PathBuf>,
    /// Private key of that certificate
    #[arg(
        long = "admin-key",
        value_name = "FILE",
        env = "TIDEGATE_ADMIN_KEY",
        requires = "admin_cert"
    )]
    admin_key: Option<PathBuf>,
}

impl AdminTls {
    /// The TLS handshake on `socket`, which is connected to `address`, a host and a port.
    pub(super) async fn handshake(
        &self,
        address: &str,
        socket: TcpStream,
    ) -> Result<TlsStream<TcpStream>, Unreached> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Unreached {
            why: format!("`{host}` is not a name or an address that a certificate can be for"),
            cure: "use https://HOST:PORT".to_owned(),
        })?;
        let config = tls::endpoint(&EndpointTls {
            roots: self.roots()?,
            server_name: None,
            pinned: Vec::new(),
            client: self.certificate()?,
        });
        let config = config.map_err(|error| Unreached {
            why: error.to_string(),
            cure: "name the CA certificate with --admin-ca or TIDEGATE_ADMIN_CA".to_owned(),
        })?;
        let done = TlsConnector::from(config).connect(name, socket).await;
        done.map_err(|error| Unreached {
            why: format!(
                "no TLS with the admin interface at {address}: {}",
                in_words_of_io(&error)
            ),
            cure: "--admin-ca or TIDEGATE_ADMIN_CA names the CA certificates to trust, --admin-cert and \
                   --admin-key a client certificate if one is required"
                .to_owned(),
        })
    }

    fn roots(&self) -> Result<Roots, Unreached> {
        self.admin_ca
            .as_deref()
            .map_or(Ok(Roots::Platform), |path| {
                certificates(path).map(Roots::Given)
            })
    }

    fn certificate(&self) -> Result<Option<Arc<CertifiedKey>>, Unreached> {
        let (Some(cert), Some(key)) = (&self.admin_cert, &self.admin_key) else {
            return Ok(None);
        };
        let chain = certificates(cert)?;
        let secret = PrivateKeyDer::from_pem_file(key);
        let secret = secret.map_err(|error| unreadable(key, "a private key", &error))?;
        let pair = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
        let pair = pair.map_err(|error| Unreached {
            why: format!(
                "`{}` and `{}` are no usable pair: {error}",
                cert.display(),
                key.display()
            ),
            cure: "--admin-key names the key of the certificate in --admin-cert".to_owned(),
        })?;
        Ok(Some(Arc::new(pair)))
    }
}

/// All certificates in a file: at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unreached> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read: Vec<_> = read.map_err(|error| unreadable(path, "a certificate", &error))?;
    match read.is_empty() {
        true => Err(unreadable(path, "a certificate", &pem::Error::NoItemsFound)),
        false => Ok(read),
    }
}

fn unreadable(path: &Path, wanted: &str, error: &pem::Error) -> Unreached {
    let path = path.display();
    Unreached {
        why: match error {
            pem::Error::Io(error) => format!("cannot read `{path}`: {error}"),
            _ => format!("`{path}` does not contain {wanted} in PEM"),
        },
        cure: "--admin-ca, --admin-cert and --admin-key name PEM files".to_owned(),
    }
}
