//! `[auth.NAME]`: who establishes the identity of a client, and for how long it holds.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{Roots, Secret};
use crate::config::key_set::PublishedKey;

/// One way to establish the identity of clients; routes refer to it by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct AuthConfig {
    /// The name, which is unique.
    pub name: Arc<str>,
    /// Who decides.
    pub method: AuthMethod,
    /// Whether CORS preflight requests pass without a credential: browsers never send one with them.
    pub passes_preflight: bool,
    /// Tunnels end at a random time within this span before their credential expires.
    pub spread: Duration,
    /// The time between two checks of the identity behind an open tunnel; `None` for no further checks.
    pub recheck: Option<Duration>,
}

/// Who decides about an identity.
#[derive(Debug, Clone, PartialEq)]
pub enum AuthMethod {
    /// An HTTP service is asked about each request.
    Service(AuthService),
    /// The request carries a signed token (JWT, RFC 7519).
    Token(TokenConfig),
}

/// An HTTP service that decides about requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthService {
    /// The name of the upstream that the service is.
    pub upstream: Arc<str>,
    /// The path and query of the requests to it.
    pub path: Box<str>,
    /// The fields of the client's request that it gets.
    pub request_headers: Vec<HeaderName>,
    /// The fields of its 2xx response that replace those of the client's request.
    pub response_headers: Vec<HeaderName>,
    /// The one of these that names the user; `None` if none does.
    pub subject_header: Option<HeaderName>,
    /// The fields of its other responses that the client gets, besides those that such a response requires.
    pub client_headers: Vec<HeaderName>,
    /// The time limit of a request to it.
    pub timeout: Duration,
    /// The most requests to it at once, per worker. As many others wait.
    pub at_once: usize,
    /// Whether requests pass without an answer of the service.
    pub passes_on_error: bool,
    /// For how long an answer holds for requests that are the same to the service; `None` to ask each time.
    pub cache: Option<Duration>,
}

/// The tokens that are accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenConfig {
    /// The `iss` that tokens must have.
    pub issuer: Box<str>,
    /// Tokens must have one of these in `aud`.
    pub audience: Vec<Box<str>>,
    /// The keys that verify signatures.
    pub keys: TokenKeys,
    /// How far the clock of the issuer may be ahead of ours.
    pub leeway: Duration,
    /// Where requests carry the token.
    pub from: Vec<TokenSource>,
}

/// The keys that verify the signatures of tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenKeys {
    /// A key set (RFC 7517) that the issuer publishes.
    Url {
        /// Its `https` URL.
        url: Box<str>,
        /// The CA certificates that the issuer's server is verified with.
        roots: Roots,
    },
    /// A key set from a file.
    Set(Arc<[PublishedKey]>),
    /// A secret that issuer and tidegate share, for HS256, HS384 and HS512.
    Secret(Secret),
}

/// A place in requests where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// The value of a header; in `Authorization`, behind `Bearer`.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// The value of a query parameter.
    Query(Box<str>),
    /// The subprotocol that is offered next to this one.
    SubprotocolAfter(Box<str>),
    /// The rest of a subprotocol that begins with this.
    SubprotocolPrefix(Box<str>),
}

/// What a route requires of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRule {
    /// The name of the claim; a dot leads into an object.
    pub claim: Box<str>,
    /// The claim must have one of these values, or be a list that contains one.
    pub values: Vec<Box<str>>,
}
