//! Plain requests on their way between clients and endpoints. One that lasts longer than a few seconds is a
//! *stream*: an event stream, a long poll, a long upload or download. Streams are listed, limited in time, paced
//! and ended like tunnels.
//!
//! Each worker has a table of its own. An exchange is in it from when the request goes to an endpoint until its
//! response has been passed on. This layer decides when an exchange ends before that, and how its body ends then;
//! forwarding it is up to `session`.

pub mod ended;
pub mod exchange;
pub mod table;
pub mod body;
mod sweep;

use std::time::Duration;

/// An exchange that is older is a stream.
pub const STREAM_AGE: Duration = Duration::from_secs(3);
