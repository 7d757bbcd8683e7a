//! Traces: spans of handshakes and tunnels, and how they reach a collector (OTLP over HTTP, in JSON).
//!
//! Workers leave finished spans in a queue, which has a bound; the control runtime sends them. Which handshakes are
//! sampled is not decided here.

mod batch_sender;
mod collector;
mod delivery;
pub mod exporter;
mod otlp;
pub mod queue;
pub mod span;
