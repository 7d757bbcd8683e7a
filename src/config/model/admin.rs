//! Where operators connect.

use super::Bind;

/// Where operators connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admin {
    /// Where metrics and health are served; nowhere without it.
    pub metrics_bind: Option<Bind>,
}
