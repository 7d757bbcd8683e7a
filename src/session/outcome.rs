//! What a session came to: what `front` makes into bytes.

use ::http::{HeaderValue, Response, StatusCode};

use super::relay::Opening;
use crate::protocol::rejection::Rejection;
use crate::upstream::http::ReplyBody;

/// What a session came to.
#[derive(Debug)]
pub enum SessionOutcome {
    /// Both sides agreed: the connection becomes a tunnel.
    Tunnel(Box<Opening>),
    /// An endpoint's reply.
    Response(Response<ReplyBody>),
    /// A redirect of ours, recorded already.
    Redirect(StatusCode, HeaderValue),
    /// A refusal of ours, recorded already.
    Rejected(Rejection),
}
