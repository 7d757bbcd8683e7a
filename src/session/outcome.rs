//! The result of a session, which `front` writes to the client.

use ::http::{HeaderValue, Response, StatusCode};

use super::relay::Opening;
use super::stream_record::StreamRecord;
use crate::auth::service::ServiceRefusal;
use crate::config::model::FixedResponse;
use crate::protocol::rejection::Rejection;
use crate::protocol::retry_after::ClientWait;
use crate::streams::body::StreamBody;

/// The result of a session.
#[derive(Debug)]
pub enum SessionOutcome {
    /// Client and endpoint agreed on a WebSocket: the connection becomes a tunnel.
    Tunnel(Box<Opening>),
    /// An endpoint's response.
    Response(Response<StreamBody<StreamRecord>>),
    /// A redirect by the configuration, already logged and counted.
    Redirect(StatusCode, HeaderValue),
    /// A response by the configuration, already logged and counted.
    Fixed(FixedResponse),
    /// The refusal of a service that decides about requests, already logged and counted.
    Refused(Box<ServiceRefusal>),
    /// A rejection, already logged and counted, and how long the client has to wait.
    Rejected(Rejection, ClientWait),
}
