//! Where the API server is, and the token and the CA certificates that it needs. All of these may change while
//! tidegate runs: files are read again once a minute, and after a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Request};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::KubernetesError;
use crate::config::ca_certificates;
use crate::config::model::{KubernetesService, Roots};
use crate::https_client::HttpsClient;
use crate::https_client::counters::ClientCounters;
use crate::upstream::connect::Connector;

/// Where a pod finds the token, the CA certificates and the namespace of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Files are read again when what is known of them is older than this: tokens are replaced after most of their
/// life, which is an hour or less.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// How long reading the files may take.
const FILES_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest file with a token or a namespace, in bytes.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// The largest file with CA certificates, in bytes.
const MAX_CA_BYTES: u64 = 1024 * 1024;

/// The largest page of a list, in bytes. A page has 500 slices, of about 20 KiB with a hundred endpoints each.
const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

type FilesTask = JoinHandle<Result<AccessFiles, KubernetesError>>;

/// The way to the API server.
#[derive(Debug)]
pub(super) struct ApiAccess {
    connector: Connector,
    counters: Arc<ClientCounters>,
    service: KubernetesService,
    /// A reading that has not ended. There is at most one, even if a file system does not respond.
    reading: Option<FilesTask>,
    current: Option<ApiSession>,
}

/// What the files said last, and the client that follows from it.
#[derive(Debug)]
struct ApiSession {
    /// `None` if they are to be read again.
    read_at: Option<Instant>,
    files: AccessFiles,
    client: HttpsClient,
}

/// The contents of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AccessFiles {
    token: Option<HeaderValue>,
    ca: Option<Vec<u8>>,
    namespace: Box<str>,
}

impl ApiAccess {
    pub(super) fn new(
        connector: Connector,
        counters: Arc<ClientCounters>,
        service: KubernetesService,
    ) -> Self {
        Self {
            connector,
            counters,
            service,
            reading: None,
            current: None,
        }
    }

    /// A client, and a request for the EndpointSlices of the Service with these further parameters.
    ///
    /// # Errors
    /// [`KubernetesError`].
    pub(super) async fn request(
        &mut self,
        parameters: &str,
    ) -> Result<(HttpsClient, Request<Bytes>), KubernetesError> {
        let is_fresh = |session: &ApiSession| {
            let read_at = session.read_at;
            read_at.is_some_and(|read_at| read_at.elapsed() < REREAD_INTERVAL)
        };
        if !self.current.as_ref().is_some_and(is_fresh) {
            let renewed = self.renew().await;
            // What was read before may still do.
            if self.current.is_none() {
                renewed?;
            }
        }
        let base = base(&self.service)?;
        let Some(session) = &self.current else {
            return Err(KubernetesError::FilesTimeout);
        };
        let (namespace, name) = (&session.files.namespace, &self.service.name);
        let url = format!(
            "{base}/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices\
             ?labelSelector=kubernetes.io%2Fservice-name%3D{name}{parameters}"
        );
        let mut request = Request::get(url).header(ACCEPT, "application/json");
        if let Some(token) = &session.files.token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Bytes::new());
        let request = request.map_err(|_| KubernetesError::Url)?;
        Ok((session.client.clone(), request))
    }

    /// Has the files read again before the next request: a failure may come from what they said.
    pub(super) fn expire(&mut self) {
        if let Some(session) = &mut self.current {
            session.read_at = None;
        }
    }

    /// Reads the files again; returns whether the token is another one now.
    ///
    /// # Errors
    /// [`KubernetesError`].
    pub(super) async fn renew(&mut self) -> Result<bool, KubernetesError> {
        let files = self.read().await?;
        let before = self.current.as_ref().map(|session| &session.files);
        let has_new_token = before.is_none_or(|before| before.token != files.token);
        let client = match &self.current {
            // The same client resumes its TLS sessions.
            Some(session) if session.files.ca == files.ca && files.ca.is_some() => {
                session.client.clone()
            }
            _ => self.client(&files)?,
        };
        self.current = Some(ApiSession {
            read_at: Some(Instant::now()),
            files,
            client,
        });
        Ok(has_new_token)
    }

    fn client(&self, files: &AccessFiles) -> Result<HttpsClient, KubernetesError> {
        let (connector, counters) = (self.connector.clone(), Arc::clone(&self.counters));
        let is_plain = base(&self.service)?.starts_with("http:");
        let client = if is_plain {
            HttpsClient::without_tls(connector, counters)
        } else {
            let roots = match &files.ca {
                None => Roots::Platform,
                Some(bytes) => {
                    let path = ca_file(&self.service).unwrap_or_default();
                    let roots = ca_certificates(&path, bytes);
                    Roots::Given(roots.map_err(|why| KubernetesError::File { path, why })?)
                }
            };
            HttpsClient::new(connector, &roots, counters)?
        };
        Ok(client.max_body_bytes(MAX_PAGE_BYTES).without_reports())
    }

    async fn read(&mut self) -> Result<AccessFiles, KubernetesError> {
        let service = &self.service;
        let reading = self.reading.get_or_insert_with(|| {
            let service = service.clone();
            tokio::task::spawn_blocking(move || read_files(&service))
        });
        let Ok(read) = timeout(FILES_TIMEOUT, reading).await else {
            return Err(KubernetesError::FilesTimeout);
        };
        self.reading = None;
        read.unwrap_or(Err(KubernetesError::FilesTimeout))
    }
}

/// The URL of the API server, without a slash at its end.
fn base(service: &KubernetesService) -> Result<Box<str>, KubernetesError> {
    if let Some(api) = &service.api {
        return Ok(api.clone());
    }
    let named = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let host = named("KUBERNETES_SERVICE_HOST").ok_or(KubernetesError::OutsideOfCluster)?;
    let port = named("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Ok(in_cluster(&host, &port).into())
}

fn in_cluster(host: &str, port: &str) -> String {
    match host.contains(':') {
        true => format!("https://[{host}]:{port}"),
        false => format!("https://{host}:{port}"),
    }
}

fn account_file(name: &str) -> PathBuf {
    Path::new(SERVICE_ACCOUNT).join(name)
}

/// The file with the CA certificates; `None` for those of the operating system.
fn ca_file(service: &KubernetesService) -> Option<PathBuf> {
    let own = || service.api.is_none().then(|| account_file("ca.crt"));
    service.ca.clone().or_else(own)
}

fn token_file(service: &KubernetesService) -> Option<PathBuf> {
    let own = || service.api.is_none().then(|| account_file("token"));
    service.token_file.clone().or_else(own)
}

fn read_files(service: &KubernetesService) -> Result<AccessFiles, KubernetesError> {
    let token = match token_file(service) {
        None => None,
        Some(path) => {
            let bytes = read_file(&path, MAX_TOKEN_BYTES)?;
            Some(bearer(&bytes).ok_or_else(|| KubernetesError::File {
                path,
                why: "it contains no token".to_owned(),
            })?)
        }
    };
    let ca = ca_file(service).map(|path| read_file(&path, MAX_CA_BYTES));
    Ok(AccessFiles {
        token,
        ca: ca.transpose()?,
        namespace: match &service.namespace {
            Some(namespace) => namespace.clone(),
            None => own_namespace()?,
        },
    })
}

fn own_namespace() -> Result<Box<str>, KubernetesError> {
    let bytes = read_file(&account_file("namespace"), MAX_TOKEN_BYTES);
    let bytes = bytes.map_err(|_| KubernetesError::Namespace)?;
    let text = str::from_utf8(bytes.trim_ascii()).map_err(|_| KubernetesError::Namespace)?;
    let is_safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    match !text.is_empty() && text.bytes().all(is_safe) {
        true => Ok(text.into()),
        false => Err(KubernetesError::Namespace),
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>, KubernetesError> {
    let read = || {
        let mut bytes = Vec::new();
        io::Read::read_to_end(
            &mut io::Read::take(std::fs::File::open(path)?, limit + 1),
            &mut bytes,
        )?;
        Ok::<_, io::Error>(bytes)
    };
    let failed = |why: String| KubernetesError::File {
        path: path.to_owned(),
        why,
    };
    let bytes = read().map_err(|error| failed(error.to_string()))?;
    match bytes.len() as u64 > limit {
        true => Err(failed(format!("it is larger than {limit} bytes"))),
        false => Ok(bytes),
    }
}

/// The header with a token; `None` if it is not one.
fn bearer(token: &[u8]) -> Option<HeaderValue> {
    let token = str::from_utf8(token.trim_ascii()).ok()?;
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value).filter(|_| !token.is_empty() && !token.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_of_a_cluster_may_have_an_ipv6_address() {
        assert_eq!(in_cluster("10.96.0.1", "443"), "https://10.96.0.1:443");
        assert_eq!(in_cluster("fd00::1", "6443"), "https://[fd00::1]:6443");
    }

    #[test]
    fn a_token_is_one_word_and_is_not_shown() {
        let value = bearer(b"abc.def\n").unwrap();
        assert_eq!(value, "Bearer abc.def");
        assert_eq!(format!("{value:?}"), "Sensitive");
        for wrong in [&b""[..], b" \n", b"a b", b"a\nb", b"\xff"] {
            assert_eq!(bearer(wrong), None);
        }
    }
}
