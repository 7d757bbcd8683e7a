//! The client side: accepted sockets become requests, and the results of their sessions are sent
//! back.
//!
//! hyper frames HTTP/1.1 here. What the response is, is decided in `session`.

pub mod accept;
pub mod client_io;
pub mod http;
pub mod http2;
pub mod response;
