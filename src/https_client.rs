//! A small HTTPS client for the services that tidegate itself asks, such as certificate authorities.
//!
//! It runs on the control runtime. Time and size are bounded: one deadline for the whole request, limits for the
//! head and the body of the response. Redirects are not followed. A request has a connection of its own: these
//! services are asked seldom, and most of them close idle connections before the next request.
//!
//! A response is read whole, or as a stream of lines that may last for hours ([`line_stream`]).

pub mod counters;
pub mod line_stream;
pub mod origin;
mod service_body;
pub mod service_traffic;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::response::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use self::counters::ClientCounters;
use self::line_stream::LineStream;
use self::origin::{ServiceOrigin, ServiceUrlError};
use self::service_body::{ServiceBody, exchange};
use crate::causes::with_causes;
use crate::config::model::{EndpointTls, Keepalive, Roots};
use crate::net::keepalive;
use crate::net::tls::{self, TlsError};
use crate::upstream::connect::Connector;
use crate::upstream::resolve::ResolveError;

/// What the client calls itself.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION")));

/// The largest body of a response, in bytes, if the client has no other limit.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// How long one address of the service may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// On a stream that lasts, nothing is sent: without probes, a network that drops packets looks like a service that has
/// nothing to say.
const KEEPALIVE: Keepalive = Keepalive {
    idle: Duration::from_secs(15),
    interval: Duration::from_secs(5),
    count: 3,
    user_timeout: Duration::from_secs(30),
};

/// How long a request may take in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause before a service that has failed is asked again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpsClientError {
    /// The URL cannot be asked.
    #[error(transparent)]
    Url(#[from] ServiceUrlError),
    /// TLS could not be set up.
    #[error(transparent)]
    Settings(#[from] TlsError),
    /// The name could not be resolved.
    #[error("cannot resolve `{host}`: {error}")]
    Resolve {
        /// The name.
        host: Box<str>,
        /// Why.
        #[source]
        error: ResolveError,
    },
    /// The client has no TLS.
    #[error("`{host}` is asked without TLS only")]
    NoTls {
        /// The host.
        host: Box<str>,
    },
    /// None of the addresses accepts a connection.
    #[error("cannot connect to `{host}`: {error}")]
    Connect {
        /// The host.
        host: Box<str>,
        /// Why the last one did not.
        #[source]
        error: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS handshake with `{host}` failed: {error}")]
    Tls {
        /// The host.
        host: Box<str>,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The connection failed, or what came is not HTTP.
    #[error("request to `{host}` failed: {error}")]
    Exchange {
        /// The host.
        host: Box<str>,
        /// Why, with its causes.
        error: Box<str>,
    },
    /// The response has a larger body than is accepted.
    #[error("the response of `{host}` is larger than {limit} bytes")]
    TooLarge {
        /// The host.
        host: Box<str>,
        /// The largest body that is accepted, in bytes.
        limit: usize,
    },
    /// A line of the response is longer than is accepted.
    #[error("a line in the response of `{host}` is longer than {limit} bytes")]
    LongLine {
        /// The host.
        host: Box<str>,
        /// The longest line that is accepted, in bytes.
        limit: usize,
    },
    /// The response ended in the middle of a line.
    #[error("the response of `{host}` ended in the middle of a line")]
    CutLine {
        /// The host.
        host: Box<str>,
    },
    /// Nothing of the response has come for a time.
    #[error("nothing from `{host}` for {}", humantime::format_duration(*limit))]
    Silence {
        /// The host.
        host: Box<str>,
        /// How long it may be silent.
        limit: Duration,
    },
    /// The deadline has passed.
    #[error("no response from `{host}` within {}", humantime::format_duration(*limit))]
    Timeout {
        /// The host.
        host: Box<str>,
        /// The time that it had.
        limit: Duration,
    },
}

/// Asks services by HTTPS.
#[derive(Debug, Clone)]
pub struct HttpsClient {
    connector: Connector,
    /// `None` if it asks without TLS only.
    tls: Option<Arc<ClientConfig>>,
    /// The name that is verified, instead of the host in the URL.
    server_name: Option<ServerName<'static>>,
    counters: Arc<ClientCounters>,
    timeout: Duration,
    /// `None` if only `timeout` counts.
    head_timeout: Option<Duration>,
    max_body_bytes: usize,
    is_plain_allowed: bool,
    is_reporting: bool,
}

impl HttpsClient {
    /// A client that trusts `roots`, and counts its requests in `counters`.
    ///
    /// # Errors
    /// [`HttpsClientError::Settings`].
    pub fn new(
        connector: Connector,
        roots: &Roots,
        counters: Arc<ClientCounters>,
    ) -> Result<Self, HttpsClientError> {
        let tls = EndpointTls {
            roots: roots.clone(),
            server_name: None,
            pinned: Vec::new(),
            client: None,
        };
        Self::with_tls(connector, &tls, counters)
    }

    /// A client with these TLS settings, such as a client certificate. It counts its requests in `counters`.
    ///
    /// # Errors
    /// [`HttpsClientError::Settings`].
    pub fn with_tls(
        connector: Connector,
        tls: &EndpointTls,
        counters: Arc<ClientCounters>,
    ) -> Result<Self, HttpsClientError> {
        Ok(Self {
            tls: Some(tls::endpoint(tls)?),
            server_name: tls.server_name.clone(),
            is_plain_allowed: false,
            ..Self::without_tls(connector, counters)
        })
    }

    /// A client for `http` URLs alone, which needs no CA certificates.
    pub fn without_tls(connector: Connector, counters: Arc<ClientCounters>) -> Self {
        Self {
            connector,
            tls: None,
            server_name: None,
            counters,
            timeout: REQUEST_TIMEOUT,
            head_timeout: None,
            max_body_bytes: MAX_BODY_BYTES,
            is_plain_allowed: true,
            is_reporting: true,
        }
    }

    /// Accepts `http` URLs, too.
    #[must_use]
    pub fn allow_plain(mut self) -> Self {
        self.is_plain_allowed = true;
        self
    }

    /// Accepts bodies of up to this many bytes.
    #[must_use]
    pub fn max_body_bytes(mut self, limit: usize) -> Self {
        self.max_body_bytes = limit;
        self
    }

    /// Gives a request this time in all; for a stream, until the head of its response has come.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Gives the head of a response this time from the connection on, within that of the request. An address that
    /// accepts no connection takes nothing from it.
    #[must_use]
    pub fn head_timeout(mut self, limit: Duration) -> Self {
        self.head_timeout = Some(limit);
        self
    }

    /// Does not log failures: the caller does, because it knows what follows from them.
    #[must_use]
    pub fn without_reports(mut self) -> Self {
        self.is_reporting = false;
        self
    }

    /// Sends a request to the absolute URL in it, and reads the whole response, whatever its status.
    ///
    /// # Errors
    /// [`HttpsClientError`]: there is no response.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpsClientError> {
        let origin = ServiceOrigin::of(request.uri(), self.is_plain_allowed)?;
        let started = Instant::now();
        let asking = async {
            let (parts, body) = self.ask(&origin, request, started + self.timeout).await?;
            let body = body.collect(self.max_body_bytes).await?;
            Ok(Response::from_parts(parts, body))
        };
        let result = self.within_timeout(&origin, asking).await;
        let status = result.as_ref().map(Response::status);
        self.count(&origin, status, started);
        result
    }

    /// Sends a request to the absolute URL in it, and returns when the head of the response has come, whatever its
    /// status. The lines that follow may be as long as `max_line_bytes`.
    ///
    /// The request counts as succeeded or failed now; a stream that fails later counts as one more failure.
    ///
    /// # Errors
    /// [`HttpsClientError`]: there is no response.
    pub async fn open(
        &self,
        request: Request<Bytes>,
        max_line_bytes: usize,
    ) -> Result<(Parts, LineStream), HttpsClientError> {
        let origin = ServiceOrigin::of(request.uri(), self.is_plain_allowed)?;
        let started = Instant::now();
        let asking = self.ask(&origin, request, started + self.timeout);
        let result = self.within_timeout(&origin, asking).await;
        let status = result.as_ref().map(|(parts, _)| parts.status);
        self.count(&origin, status, started);
        let (parts, body) = result?;
        let counters = (Arc::clone(&self.counters), self.is_reporting);
        let lines = LineStream::new(body, max_line_bytes, counters);
        Ok((parts, lines))
    }

    async fn within_timeout<T>(
        &self,
        origin: &ServiceOrigin,
        asking: impl Future<Output = Result<T, HttpsClientError>>,
    ) -> Result<T, HttpsClientError> {
        match timeout(self.timeout, asking).await {
            Ok(result) => result,
            Err(_) => Err(HttpsClientError::Timeout {
                host: origin.host.clone(),
                limit: self.timeout,
            }),
        }
    }

    /// Counts a request with its result, and reports a failure.
    fn count(
        &self,
        origin: &ServiceOrigin,
        result: Result<StatusCode, &HttpsClientError>,
        started: Instant,
    ) {
        let failure = match result {
            Ok(status) if status.is_server_error() => {
                Some(format!("`{}` responds with {status}", origin.host))
            }
            Ok(_) => None,
            Err(error) => Some(with_causes(error)),
        };
        self.counters.count(failure.as_deref(), started.elapsed());
        if let Some(failure) = failure.filter(|_| self.is_reporting) {
            self.counters.report(&failure);
        }
    }

    async fn ask(
        &self,
        origin: &ServiceOrigin,
        request: Request<Bytes>,
        deadline: Instant,
    ) -> Result<(Parts, ServiceBody), HttpsClientError> {
        let request = prepared(request, origin)?;
        let tls = match (&origin.tls_name, &self.tls) {
            (None, _) => None,
            (Some(host), Some(tls)) => {
                let name = self.server_name.as_ref().unwrap_or(host);
                Some((name.clone(), Arc::clone(tls)))
            }
            (Some(_), None) => {
                let host = origin.host.clone();
                return Err(HttpsClientError::NoTls { host });
            }
        };
        let socket = self.connect(origin, deadline).await?;
        let exchanging = async {
            let Some((name, tls)) = tls else {
                return exchange(&origin.host, socket, request).await;
            };
            let secured = TlsConnector::from(tls).connect(name, socket).await;
            let stream = secured.map_err(|error| HttpsClientError::Tls {
                host: origin.host.clone(),
                error,
            })?;
            exchange(&origin.host, stream, request).await
        };
        let limit = self.head_timeout.unwrap_or(self.timeout);
        let result = timeout(limit, exchanging).await;
        result.unwrap_or_else(|_| {
            let host = origin.host.clone();
            Err(HttpsClientError::Timeout { host, limit })
        })
    }

    /// Tries the addresses one after the other.
    async fn connect(
        &self,
        origin: &ServiceOrigin,
        deadline: Instant,
    ) -> Result<TcpStream, HttpsClientError> {
        let mut failure = io::Error::from(io::ErrorKind::TimedOut);
        for address in self.resolve(origin, deadline).await? {
            let until = deadline.min(Instant::now() + CONNECT_TIMEOUT);
            match timeout_at(until, TcpStream::connect(address)).await {
                Ok(Ok(socket)) => {
                    // A request is written at once; its last segment must not wait for an ACK.
                    let _ = socket.set_nodelay(true);
                    let _ = keepalive::set(&socket, Some(KEEPALIVE));
                    return Ok(socket);
                }
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(HttpsClientError::Connect {
            host: origin.host.clone(),
            error: failure,
        })
    }

    async fn resolve(
        &self,
        origin: &ServiceOrigin,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, HttpsClientError> {
        if let Some(address) = origin.address {
            return Ok(vec![SocketAddr::new(address, origin.port)]);
        }
        let limit = (self.timeout, deadline);
        let resolved = self.connector.resolve(&origin.host, origin.port, limit);
        resolved.await.map_err(|error| HttpsClientError::Resolve {
            host: origin.host.clone(),
            error,
        })
    }
}

/// The request as it is written: the target without the origin, and the headers that HTTP/1.1 asks for.
fn prepared(
    request: Request<Bytes>,
    origin: &ServiceOrigin,
) -> Result<Request<Full<Bytes>>, HttpsClientError> {
    let (mut parts, body) = request.into_parts();
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    parts.uri = target.parse().map_err(|_| ServiceUrlError::Target)?;
    parts.headers.insert(HOST, origin.authority.clone());
    parts.headers.insert(USER_AGENT, AGENT);
    Ok(Request::from_parts(parts, Full::new(body)))
}

/// How long to wait before a service is asked again, after this number of failures in a row. Callers shorten it by
/// chance, so that not all nodes ask at once.
pub fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let times = 2_u32.saturating_pow(failures.saturating_sub(1));
    first.saturating_mul(times).min(longest)
}

#[cfg(test)]
mod tests;
