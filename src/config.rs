//! The configuration: from a TOML file to typed, checked values, every problem reported at once.
//!
//! Owns the file format and its diagnostics. Knows no sockets; only `raw` knows TOML.

pub mod model;
