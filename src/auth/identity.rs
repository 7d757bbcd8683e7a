//! The identity that was established for a request.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue};

use super::question::AuthQuestion;
use crate::protocol::claims::Claims;

/// Who a client is, and for how long that is known.
#[derive(Debug, Clone, Default)]
pub struct EstablishedIdentity {
    /// The subject: one user, device or service.
    pub subject: Option<Box<str>>,
    /// What else is known.
    pub claims: Claims,
    /// When the credential was issued.
    pub issued: Option<SystemTime>,
    /// When the credential expires: it admits nothing after that, and the tunnel that it has opened ends. A plain
    /// response goes on.
    pub expires: Option<SystemTime>,
    /// Fields that replace those of the request under these names, in any spelling; without a value, they are
    /// removed.
    pub fields: Vec<(HeaderName, Option<HeaderValue>)>,
    /// What the service that knows the client can be asked again; `None` if no service does.
    pub question: Option<AuthQuestion>,
}
