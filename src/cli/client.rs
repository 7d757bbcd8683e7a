//! A client of a running tidegate: HTTP over its admin socket.

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
use tidegate::admin::api::operation::{GENERATION, Operation};
use tidegate::admin::api::status::{GenerationInfo, StatusInfo};
use tidegate::admin::error::ErrorResponse;
use tidegate::admin::exchange::exchange;
use tidegate::config::model::Admin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long to wait for a response: longer than the process waits for the end of a command, which is 150 s.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(170);

/// How to reach the running tidegate, and how to print its response.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminClient {
    /// Admin socket of the running tidegate (`admin.bind` in its configuration): unix:/path or ADDRESS:PORT
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TIDEGATE_ADMIN",
        default_value_t = format!("unix:{}", Admin::PATH)
    )]
    pub(super) admin: String,
    /// File with the token that changes over TCP require (`admin.token_file`)
    #[arg(long, value_name = "FILE", env = "TIDEGATE_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Talk to this older generation, which still drains after an upgrade; `tidegate status` lists them
    #[arg(long, value_name = "NUMBER")]
    pub(super) generation: Option<u64>,
    /// Print the response as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Why a request failed.
#[derive(Debug)]
pub(super) enum ClientError {
    /// No tidegate responds at this address.
    Unreached { admin: String, why: String },
    /// It responded, and refused.
    Refused(ErrorResponse, StatusCode),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached { admin, why } => {
                writeln!(f, "error: no tidegate responds at {admin}: {why}")?;
                write!(
                    f,
                    "  check that it is running and that this is its `admin.bind`; set another address \
                     with --admin or TIDEGATE_ADMIN (unix:/path or ADDRESS:PORT)"
                )
            }
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
        }
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
            .map_err(|error| self.unreached(&error))?;
        let body = body.map(|body| serde_json::to_vec(body).unwrap_or_default());
        let result = runtime.block_on(async {
            let sending = self.exchange(operation, query, body.unwrap_or_default());
            let sent = tokio::time::timeout(RESPONSE_TIMEOUT, sending).await;
            sent.unwrap_or_else(|_| Err(self.unreached(&"no response in time")))
        });
        // A name lookup may still run on a thread of its own; waiting for it would delay the exit.
        runtime.shutdown_background();
        result
    }

    /// A client for each generation, the youngest first; only for one of them if --generation names it.
    pub(super) fn generations(&self) -> Result<Vec<Self>, ClientError> {
        if self.generation.is_some() {
            return Ok(vec![self.clone()]);
        }
        let status: StatusInfo = self.read(&self.ask(Operation::Status, "", None::<&()>)?)?;
        let generations = status.generations.iter();
        let to = |it: &GenerationInfo| Self {
            generation: Some(it.identity.generation),
            ..self.clone()
        };
        Ok(generations.map(to).collect())
    }

    /// Parses a response body.
    pub(super) fn read<T: DeserializeOwned>(&self, response: &[u8]) -> Result<T, ClientError> {
        let unlike = |error| self.unreached(&format!("unexpected response: {error}"));
        serde_json::from_slice(response).map_err(unlike)
    }

    fn unreached(&self, why: &dyn fmt::Display) -> ClientError {
        ClientError::Unreached {
            admin: self.admin.clone(),
            why: why.to_string(),
        }
    }

    async fn exchange(
        &self,
        operation: Operation,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, ClientError> {
        let unreached = |error: io::Error| self.unreached(&error);
        match self.admin.strip_prefix("unix:") {
            Some(path) => {
                let socket = UnixStream::connect(path).await.map_err(unreached)?;
                self.over(socket, operation, query, body).await
            }
            None => {
                let address = self.admin.strip_prefix("http://").unwrap_or(&self.admin);
                let socket = TcpStream::connect(address).await.map_err(unreached)?;
                self.over(socket, operation, query, body).await
            }
        }
    }

    async fn over(
        &self,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        operation: Operation,
        query: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, ClientError> {
        let request = self.request(operation, query, body)?;
        let response = exchange(socket, request).await;
        let (status, body) = response.map_err(|error| self.unreached(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        Err(ClientError::Refused(self.read(&body)?, status))
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
        let host = match self.admin.starts_with("unix:") {
            true => "localhost",
            false => self.admin.strip_prefix("http://").unwrap_or(&self.admin),
        };
        let mut request = Request::builder()
            .method(operation.method())
            .uri(format!("{}{mark}{query}", operation.path()))
            .header(HOST, host);
        if operation.method() == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(path) = &self.token_file {
            let token = token(path).map_err(|error| {
                let error = format!("cannot read `{}`: {error}", path.display());
                let details = Vec::new();
                ClientError::Refused(ErrorResponse { error, details }, StatusCode::BAD_REQUEST)
            })?;
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.into()));
        request.map_err(|error| self.unreached(&error))
    }
}

fn token(path: &Path) -> io::Result<String> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}
