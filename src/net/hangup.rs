//! The end of a connection by its peer, as far as it is known without reading.

/// What a peer has done with its connection, as far as is known without a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// It has ended its stream; what it sent before may still be unread.
    Ended,
    /// The connection is gone in both directions.
    Reset,
}
