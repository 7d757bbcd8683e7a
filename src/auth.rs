//! Who a client is: the ways to establish an identity that `[auth.NAME]` describes, as running, and what an
//! identity is.
//!
//! Nothing here finds routes or forwards requests: `session` asks, and acts on the result.

pub mod accepted_tokens;
pub mod fault;
mod fetch;
pub mod identity;
pub mod issuer_keys;
mod keeper;
pub mod key_keepers;
pub mod key_set;
pub mod question;
pub mod revocations;
pub mod service;
mod signature;
mod signed_token;
#[cfg(test)]
mod testing;
pub mod token;
pub mod verdict_cache;
pub mod verified_tokens;

use std::sync::Arc;

use self::accepted_tokens::AcceptedTokens;
use self::issuer_keys::IssuerKeys;
use crate::config::model::{AuthConfig, AuthMethod, Config};

/// One `[auth.NAME]`, as running.
#[derive(Debug)]
pub struct Authenticator {
    /// The configuration.
    pub settings: Arc<AuthConfig>,
    /// The tokens that it accepts; `None` if a service decides.
    pub tokens: Option<AcceptedTokens>,
}

impl Authenticator {
    /// Those of a configuration. What they know is kept from `before`, by their names.
    pub fn all(config: &Config, before: &[Arc<Self>]) -> Vec<Arc<Self>> {
        let unchanged = |settings: &Arc<AuthConfig>| {
            let mut known = before.iter();
            known.find(|it| *it.settings == **settings).map(Arc::clone)
        };
        let new = |settings: &Arc<AuthConfig>| {
            let mut known = before.iter();
            let known = known.find(|it| it.settings.name == settings.name);
            let keys = known.and_then(|it| it.issuer_keys());
            let settings = Arc::clone(settings);
            let tokens = match &settings.method {
                AuthMethod::Token(tokens) => {
                    Some(AcceptedTokens::new(&settings.name, tokens, keys))
                }
                AuthMethod::Service(_) => None,
            };
            Arc::new(Self { settings, tokens })
        };
        let all = config.auth.iter();
        all.map(|settings| unchanged(settings).unwrap_or_else(|| new(settings)))
            .collect()
    }

    /// The keys that the issuer of its tokens publishes, if it does.
    pub fn issuer_keys(&self) -> Option<&Arc<IssuerKeys>> {
        self.tokens.as_ref()?.issuer_keys()
    }
}
