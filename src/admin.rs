//! Where operators look, and where they steer: metrics and health, and the interface under `/v1` that
//! the command line speaks.
//!
//! All of it runs on the control runtime. What only a worker knows or can do it is asked for, through a
//! queue of its own and in small steps, so that nobody's questions get in the way of connections.
//! Reading a configuration is `server`'s business: it is given orders.

pub mod error;
pub mod plan;
pub mod command;
pub mod exchange;
pub mod generations;
pub mod view;
pub mod http;
pub mod public;
pub mod api;
