//! Plain requests to endpoints: the bodies of requests and responses, and a pool of idle connections.
//!
//! hyper's client does the message framing. A request borrows a connection, and returns it when the
//! body of the response has ended; only then can another request use it.

mod interim;
mod merged;
mod pool;
mod pool_key;
mod request;
mod reserved;
mod response;
mod sender;

use std::rc::Rc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::interim::{InterimResponse, InterimResponses, RefusedBody};
pub use self::pool::Pool;
pub use self::pool_key::PoolKey;
pub use self::request::{
    BlockedFields, RequestBody, UploadLimits, UploadProgress, UploadStalled, UploadTooLarge,
};
pub use self::reserved::ReservedConnections;
pub use self::response::{BorrowedConnection, ResponseBody, ReturnTo};
pub use self::sender::RequestSender;
use super::source::PortPermit;
use super::unanswered::{AnswerState, AnswerWatch};
use crate::drain::Tasks;
use crate::net::turns::{TurnStream, TurnTask};

/// The maximum that hyper buffers of one message: the limit of a response head.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Starts HTTP/1.1 on a new connection, for responses of at most `max_header_lines`. The task that drives it
/// is one of `tasks`, and holds `port`.
///
/// # Errors
/// None in practice: hyper sends nothing to start HTTP/1.1.
pub async fn open(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    port: Option<PortPermit>,
    max_header_lines: usize,
    tasks: &Tasks,
) -> hyper::Result<RequestSender> {
    // Names keep the client's case where it is known, and are title case otherwise: some endpoints
    // compare them with case.
    let state = Rc::<AnswerState>::default();
    let io = AnswerWatch::new(io, Rc::clone(&state));
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        // A blank before a colon must be removed from a response, not rejected (RFC 9112 section 5.1).
        .allow_spaces_after_header_name_in_responses(true)
        .max_headers(max_header_lines)
        .max_buf_size(MAX_BUFFER_BYTES)
        .handshake(TokioIo::new(TurnStream::new(io)))
        .await?;
    tasks.spawn(async move {
        // The request that uses the connection gets the error, too.
        let _ = TurnTask::new(connection).await;
        // Not before: the port is in use as long as the connection is open, idle in the pool, too.
        drop(port);
    });
    Ok(RequestSender::new(sender, state))
}
