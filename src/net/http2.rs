//! The two directions of an HTTP/2 stream, as a tunnel and as a request's body use them (RFC 9113).
//!
//! The connection that carries the streams belongs to `front/http2`: its task reads and writes the socket. What
//! stands here only hands bytes to it and takes bytes from it, and gives credit back for what has been delivered.

mod send_buffer;
mod tunnel_stream;
mod upload;

pub use self::send_buffer::SendBuffer;
pub use self::tunnel_stream::{TunnelReceiver, TunnelStream};
pub use self::upload::{Upload, UploadReader};
