//! Upstreams: picks an endpoint for a session, leases it, and connects to it.
//!
//! This module does not know clients, routes or tunnels.

pub mod balance;
pub mod queue;
mod time;
mod retry_budget;
pub mod unanswered;
pub mod lookups;
mod addresses;
pub mod resolve;
pub mod health;
pub mod reachability;
pub mod report;
pub mod handover;
pub mod endpoint;
pub mod agenda;
pub mod registry;
pub mod group;
pub mod discovery;
pub mod source;
pub mod connect;
pub mod exchange;
pub mod check_steps;
pub mod health_check;
pub mod http;
