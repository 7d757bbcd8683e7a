//! Plain HTTP towards endpoints: bodies both ways, and the idle connections of one worker.
//!
//! hyper's client frames the messages. A connection is lent to one request, and given back when
//! the reply's body has ended; only then may another request use it.

mod pool;
mod request;
mod response;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::pool::{Pool, PoolKey};
pub use self::request::{BlockedFields, RequestBody, RequestSender, UploadProgress, UploadStalled};
pub use self::response::{BorrowedConnection, ResponseBody};
use super::source::PortPermit;
use crate::drain::Tasks;

/// Bytes that hyper may buffer of one message: the bound on the head of an answer.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// Puts HTTP/1.1 on a fresh connection; the task that drives it is one of `tasks`, and holds `port`.
///
/// # Errors
/// None in practice: hyper's handshake for HTTP/1.1 sends nothing.
pub async fn open(
    io: impl AsyncRead + AsyncWrite + Unpin + 'static,
    port: Option<PortPermit>,
    tasks: &Tasks,
) -> hyper::Result<RequestSender> {
    let (sender, connection) = http1::Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(MAX_BUFFER_BYTES)
        .handshake(TokioIo::new(io))
        .await?;
    tasks.spawn(async move {
        // What goes wrong is told to the request that it goes wrong for.
        let _ = connection.await;
        drop(port);
    });
    Ok(sender)
}
