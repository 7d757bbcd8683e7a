//! What a client has asked for in its ClientHello (RFC 8446 section 4.1.2), for the code that performs the handshake.
//!
//! The unbuffered connections of rustls do not expose it, but pass it to the resolver of certificates, which notes it
//! here. rustls calls the resolver while it processes the ClientHello, on the same thread, and the caller takes the note
//! as soon as rustls returns.

use std::cell::RefCell;

thread_local! {
    static NOTED: RefCell<Option<AskedFor>> = const { RefCell::new(None) };
}

/// What a client has asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AskedFor {
    /// The server name, in lower case.
    pub(super) server_name: Option<Box<str>>,
    /// Whether it wants to validate a name by `tls-alpn-01`, and nothing else.
    pub(super) challenge: bool,
}

/// Notes what the ClientHello asks for that is being processed on this thread.
pub(super) fn note(asked: AskedFor) {
    NOTED.set(Some(asked));
}

/// What the ClientHello has asked for that was processed just now on this thread, if one was.
pub(super) fn take() -> Option<AskedFor> {
    NOTED.take()
}
