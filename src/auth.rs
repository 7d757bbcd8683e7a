//! Who a client is: the ways to establish an identity that `[auth.NAME]` describes, as running, and what an
//! identity is.
//!
//! Nothing here finds routes or forwards requests: `session` asks, and acts on the result.

pub mod fault;
mod fetch;
pub mod identity;
pub mod issuer_keys;
mod keeper;
pub mod key_keepers;
pub mod key_set;
mod signature;
#[cfg(test)]
mod testing;
pub mod token;

use std::sync::Arc;

use crate::config::model::{AuthConfig, Config};

/// One `[auth.NAME]`, as running.
#[derive(Debug)]
pub struct Authenticator {
    /// The configuration.
    pub settings: Arc<AuthConfig>,
}

impl Authenticator {
    /// Those of a configuration. What they know is kept from `before`, by their names.
    pub fn all(config: &Config, before: &[Arc<Self>]) -> Vec<Arc<Self>> {
        let unchanged = |settings: &Arc<AuthConfig>| {
            let mut known = before.iter();
            known.find(|it| *it.settings == **settings).map(Arc::clone)
        };
        let new = |settings: &Arc<AuthConfig>| {
            let settings = Arc::clone(settings);
            Arc::new(Self { settings })
        };
        let all = config.auth.iter();
        all.map(|settings| unchanged(settings).unwrap_or_else(|| new(settings)))
            .collect()
    }
}
