//! A client of a running tidegate: HTTP over its admin socket.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use tidegate::admin::api::data_error;
use tidegate::admin::api::operation::{GENERATION, Operation};
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::command::COMMAND_TIMEOUT;
use tidegate::admin::error::ErrorResponse;
use tidegate::admin::exchange::{WholeResponse, exchange_all};
use tidegate::causes::with_causes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::admin_address::{AdminAddress, AdminSocket};
use super::admin_tls::AdminTls;
use super::argument::whole;
use super::unreached::Unreached;

/// How long to wait for a response: longer than the process waits for the end of a command.
const RESPONSE_TIMEOUT: Duration = COMMAND_TIMEOUT.saturating_add(Duration::from_secs(20));

/// How to reach the running tidegate, and how to print its response.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminClient {
    /// Admin socket of the running tidegate (`admin.bind` in its configuration): unix:/path, ADDRESS:PORT, or
    /// https://HOST:PORT [default: unix:/run/tidegate/admin.sock, else unix:$XDG_RUNTIME_DIR/tidegate/admin.sock]
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TIDEGATE_ADMIN",
        value_parser = AdminAddress::parse
    )]
    admin: Option<AdminAddress>,
    /// File with a token for the admin interface over TCP (`admin.tokens`, `admin.token_file`)
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: Box<AdminTls>,
    /// Talk to this older generation, which still drains after an upgrade; `tidegate status` lists them
    #[arg(long, value_name = "NUMBER", value_parser = whole::<u64>)]
    pub(super) generation: Option<u64>,
    /// Print the response as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// How long to wait for a response, if not for as long as a command may take.
    #[arg(skip)]
    pub(super) timeout: Option<Duration>,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum ClientError {
    /// No tidegate responds at this address.
    Unreached(Unreached),
    /// It responded, and refused.
    Refused(ErrorResponse, StatusCode),
    /// It is done on all nodes that are known, and there may be others.
    Incomplete(IncompleteFleet),
}

/// Why there may be nodes that are not known.
#[derive(Debug)]
pub(super) struct IncompleteFleet {
    /// Why, and how old the list is.
    pub(super) why: String,
    /// The number of nodes that are known.
    pub(super) nodes: usize,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(Unreached { why, cure }) => write!(f, "error: {why}\n  {cure}"),
            Self::Refused(refusal, status) => {
                write!(f, "error: {}", refusal.error)?;
                for line in &refusal.details {
                    write!(f, "\n  {line}")?;
                }
                if *status == StatusCode::UNAUTHORIZED {
                    write!(
                        f,
                        "\n  pass the token's file with --token-file or TIDEGATE_TOKEN_FILE"
                    )?;
                }
                Ok(())
            }
            Self::Incomplete(IncompleteFleet { why, nodes }) => write!(
                f,
                "error: {why}\n  it is done on the {nodes} nodes above; do it again when the store can be read, \
                 because others may have joined"
            ),
        }
    }
}

impl ClientError {
    /// Whether what the request names does not exist.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(_, StatusCode::NOT_FOUND))
    }
}

impl AdminClient {
    /// Sends an operation with these query parameters or this body; returns the response body unread.
    pub(super) fn ask(
        &self,
        operation: Operation,
        query: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| self.silent(&error.to_string()))?;
        let body = body.map(|body| serde_json::to_vec(body).unwrap_or_default());
        let result = runtime.block_on(self.send(operation, query, body.unwrap_or_default()));
        // A name lookup may still run on a thread of its own; waiting for it would delay the exit.
        runtime.shutdown_background();
        result
    }

    /// The same where a runtime is there already, with the body as it is sent.
    pub(super) async fn send(
        &self,
        operation: Operation,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, ClientError> {
        let request = self.request(operation, query, body)?;
        let bodies = self.exchange(vec![request]).await?;
        let body = bodies.into_iter().next();
        body.ok_or_else(|| self.silent("it closed the connection without one"))
    }

    /// The response bodies of these operations, which take no parameters, over one connection.
    pub(super) async fn look(&self, operations: &[Operation]) -> Result<Vec<Bytes>, ClientError> {
        let requests = operations.iter();
        let requests = requests.map(|operation| self.request(*operation, "", Vec::new()));
        self.exchange(requests.collect::<Result<_, _>>()?).await
    }

    /// A client of this older generation.
    pub(super) fn of_generation(&self, generation: u64) -> Self {
        Self {
            generation: Some(generation),
            ..self.clone()
        }
    }

    /// A client for each generation, the youngest first; only this one if there is only one generation, or if
    /// --generation names it.
    pub(super) fn generations(&self) -> Result<Vec<Self>, ClientError> {
        if self.generation.is_some() {
            return Ok(vec![self.clone()]);
        }
        let status: StatusInfo = self.read(&self.ask(Operation::Status, "", None::<&()>)?)?;
        if let [] | [_] = status.generations.as_slice() {
            return Ok(vec![self.clone()]);
        }
        let generations = status.generations.iter();
        let to = |it: &GenerationInfo| self.of_generation(it.identity.generation);
        Ok(generations.map(to).collect())
    }

    /// The same client for another node, which has a limited time.
    pub(super) fn at(&self, admin: AdminAddress, timeout: Duration) -> Self {
        Self {
            admin: Some(admin),
            timeout: Some(timeout),
            ..self.clone()
        }
    }

    /// Parses a response body.
    pub(super) fn read<T: DeserializeOwned>(&self, response: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(response).map_err(|error| match error.classify() {
            Category::Data => self.silent(&format!(
                "its response is that of another version: {}",
                data_error(&error)
            )),
            _ => self.other_server("its response is not JSON"),
        })
    }

    fn address(&self) -> AdminAddress {
        self.admin.clone().unwrap_or_default()
    }

    /// The address is right, but there is no usable response.
    fn silent(&self, why: &str) -> ClientError {
        let why = format!("no usable response from {}: {why}", self.address());
        ClientError::Unreached(Unreached::checking(why))
    }

    /// What responds is not an admin interface.
    fn other_server(&self, why: &str) -> ClientError {
        let admin = self.address();
        let why = format!("{admin} is not the admin interface of a tidegate: {why}");
        ClientError::Unreached(Unreached::checking(why))
    }

    /// The failure of an exchange: of the connection, or of the bytes on it.
    fn unusable(&self, error: &(dyn Error + 'static)) -> ClientError {
        let causes = || std::iter::successors(Some(error), |&error| error.source());
        let of_http = || causes().filter_map(|error| error.downcast_ref::<hyper::Error>());
        if causes().any(|error| error.is::<io::Error>()) || of_http().next().is_none() {
            self.silent(&with_causes(error))
        } else if of_http().any(hyper::Error::is_incomplete_message) {
            self.silent("it closed the connection without one")
        } else {
            self.other_server("its response is not HTTP")
        }
    }

    /// Sends requests over one connection; returns the response bodies.
    async fn exchange(
        &self,
        requests: Vec<Request<Full<Bytes>>>,
    ) -> Result<Vec<Bytes>, ClientError> {
        let sending = async {
            let connected = self.address().connect(&self.tls).await;
            match connected.map_err(ClientError::Unreached)? {
                AdminSocket::Unix(socket) => self.over(socket, requests).await,
                AdminSocket::Tcp(socket) => self.over(socket, requests).await,
                AdminSocket::Tls(stream) => self.over(*stream, requests).await,
            }
        };
        let sent = tokio::time::timeout(self.timeout.unwrap_or(RESPONSE_TIMEOUT), sending).await;
        sent.unwrap_or_else(|_| Err(self.silent("no response in time")))
    }

    async fn over(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        requests: Vec<Request<Full<Bytes>>>,
    ) -> Result<Vec<Bytes>, ClientError> {
        let responses = exchange_all(socket, requests).await;
        let responses = responses.map_err(|error| self.unusable(&*error))?;
        let bodies = responses.into_iter().map(|it| self.successful(it));
        bodies.collect()
    }

    /// The body of a response, unless that is a refusal.
    fn successful(&self, (status, body): WholeResponse) -> Result<Bytes, ClientError> {
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice(&body) {
            Ok(refusal) => Err(ClientError::Refused(refusal, status)),
            Err(_) => Err(self.other_server(&format!("it responded {status}"))),
        }
    }

    fn request(
        &self,
        operation: Operation,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let generation = self.generation.map(|it| format!("{GENERATION}={it}"));
        let query = [query.to_owned(), generation.unwrap_or_default()];
        let query: Vec<String> = query.into_iter().filter(|it| !it.is_empty()).collect();
        let query = query.join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .method(operation.method())
            .uri(format!("{}{mark}{query}", operation.path()))
            .header(HOST, self.address().host());
        if operation.method() == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        // Over a unix socket nothing needs it, and the process there may not be the one whose token it is.
        let takes_token = self.admin.as_ref().is_some_and(AdminAddress::takes_token);
        if let Some(path) = self.token_file.as_ref().filter(|_| takes_token) {
            let token = token(path).map_err(|error| {
                let error = format!("cannot read `{}`: {error}", path.display());
                let details = Vec::new();
                ClientError::Refused(ErrorResponse { error, details }, StatusCode::BAD_REQUEST)
            })?;
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into()));
        request.map_err(|error| self.silent(&error.to_string()))
    }
}

fn token(path: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}
