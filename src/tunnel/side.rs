//! The two ends of a tunnel.

/// One of the two ends of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Endpoint,
}

impl Side {
    /// What logs call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
        }
    }

    /// The other end.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Endpoint,
            Self::Endpoint => Self::Client,
        }
    }
}
