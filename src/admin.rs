//! The interface for operators: metrics and health on one address, and the JSON interface under `/v1`
//! on another, which the command line uses, too.
//!
//! All of it runs on the control runtime. It only shows and passes on: closing tunnels is the work of
//! `displace`, and what only the process itself can do (reload, upgrade, drain a listener) is sent to it
//! as a `ControlCommand`.

pub mod error;
pub mod closing;
pub mod reload_plan;
pub mod command;
pub mod default_socket;
pub mod exchange;
pub mod generations;
pub mod view;
pub mod http;
pub mod public;
pub mod api;
