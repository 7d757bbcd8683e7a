//! The side that clients see: accepted sockets become requests, and what a session made of them is
//! sent back.
//!
//! hyper frames HTTP/1.1 here. What an answer is, is decided in `session`.

pub mod accept;
pub mod http;
pub mod client_io;
pub mod response;
