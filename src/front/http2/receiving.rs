//! The client's direction of a stream.

use std::task::Context;

use crate::net::http2::{TunnelReceiver, UploadReader};

/// The client's direction of a stream.
#[derive(Debug)]
pub(super) enum Receiving {
    /// The body of a request.
    Body(UploadReader),
    /// A tunnel, if the handshake succeeds.
    Tunnel(TunnelReceiver),
}

impl Receiving {
    /// Takes in what has come, although it may be needed later, if at all.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Body(reader) => reader.take_in(cx),
            Self::Tunnel(receiver) => receiver.take_in(cx),
        }
    }

    /// Whether a body has begun to be waited for; once.
    pub(super) fn is_awaited(&self) -> bool {
        match self {
            Self::Body(reader) => reader.is_awaited(),
            Self::Tunnel(_) => false,
        }
    }
}
