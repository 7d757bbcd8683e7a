//! Network bytes become types here, once: handshakes, targets, response heads, frames, PROXY
//! headers, forwarding headers, certificates.
//!
//! This module is pure: it has no I/O, no clock and no async. No other module decides about
//! framing, upgrades, trust or hosts from raw header bytes.

pub mod token;
pub mod structured_field;
pub mod load_report;
pub mod address_text;
pub mod client_protocol;
pub mod connection_auth;
pub mod rejection;
pub mod retry_after;
pub mod target;
pub mod header_case;
pub mod forwarding_names;
pub mod hop_by_hop;
pub mod forwarded;
pub mod proxy_header;
pub mod certificate;
pub mod claims;
pub mod redaction;
pub mod revoked;
pub mod sticky_cookie;
pub mod endpoint_cookie;
pub mod request_key;
pub mod trace_context;
pub mod stripped_prefix;
pub mod edit;
pub mod opcode;
pub mod frame;
pub mod credential;
mod extensions;
pub mod handshake;
pub mod http2_head;
pub mod access;
pub mod handshake_response;
pub mod interim_response;
pub mod health_request;
pub mod event_stream;
