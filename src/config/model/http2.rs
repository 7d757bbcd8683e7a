//! HTTP/2 towards clients.

use std::time::Duration;

/// How a listener speaks HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2 {
    /// Whether clients may open WebSockets over it (RFC 8441).
    pub websockets: bool,
    /// The maximum number of concurrent streams of a connection.
    pub streams: u32,
    /// The flow-control window of a stream, in bytes: at least [`Self::MIN_WINDOW`].
    pub stream_window: u32,
    /// The flow-control window of a connection, in bytes: at least that of a stream.
    pub connection_window: u32,
    /// How long a connection accepts further streams; `None` for no limit.
    pub max_age: Option<Duration>,
}

impl Http2 {
    /// The window with which every stream and connection begins (RFC 9113 section 6.9.2), in bytes.
    pub const MIN_WINDOW: u32 = 65_535;
    /// The largest window that there is (RFC 9113 section 6.9.1), in bytes.
    pub const MAX_WINDOW: u32 = (1 << 31) - 1;
}
