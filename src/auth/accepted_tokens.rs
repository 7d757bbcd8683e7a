//! The tokens that one `[auth.NAME]` accepts, as running.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use super::fault::TokenFault;
use super::identity::EstablishedIdentity;
use super::issuer_keys::{IssuerKeys, KeyLocation};
use super::key_set::KeySet;
use super::token::{TokenVerifier, VerifiedToken};
use super::verified_tokens::VerifiedTokens;
use crate::config::model::{TokenConfig, TokenKeys, TokenSource};
use crate::protocol::claims::Claims;
use crate::protocol::credential::{Credential, CredentialError};
use crate::protocol::redaction::Redaction;
use crate::protocol::rejection::Rejection;
use crate::protocol::target::Target;

/// Why a request has no identity. The texts are for the access log: there is nothing of a token in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The request has no token.
    #[error("the request has no token in any of the places of `from`")]
    Missing,
    /// It has no token that could be verified.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The token is not accepted.
    #[error("the token is not accepted: {0}")]
    Fault(#[from] TokenFault),
}

impl TokenError {
    /// What the client gets.
    pub fn rejection(self) -> Rejection {
        match self {
            Self::Missing => Rejection::CredentialMissing,
            Self::Credential(CredentialError::Conflict) => Rejection::CredentialConflict,
            Self::Fault(TokenFault::Expired) => Rejection::CredentialExpired,
            Self::Fault(TokenFault::NoKeys) => Rejection::AuthUnavailable,
            Self::Credential(CredentialError::TooLong) | Self::Fault(_) => {
                Rejection::CredentialInvalid
            }
        }
    }
}

/// The tokens that one `[auth.NAME]` accepts.
#[derive(Debug)]
pub struct AcceptedTokens {
    sources: Vec<TokenSource>,
    verifier: TokenVerifier,
    keys: RunningKeys,
}

/// The keys that verify tokens.
#[derive(Debug)]
enum RunningKeys {
    /// From a file.
    Fixed(KeySet),
    /// Those that the issuer publishes.
    Published(Arc<IssuerKeys>),
}

impl AcceptedTokens {
    /// The tokens that `config` describes. Keys that were fetched for the same location are taken from `before`.
    pub fn new(auth: &Arc<str>, config: &TokenConfig, before: Option<&Arc<IssuerKeys>>) -> Self {
        let keys = match &config.keys {
            TokenKeys::Secret(secret) => RunningKeys::Fixed(KeySet::secret(secret)),
            TokenKeys::Set(keys) => RunningKeys::Fixed(KeySet::published(keys)),
            TokenKeys::Url { url, roots } => {
                let location = KeyLocation {
                    auth: Arc::clone(auth),
                    url: url.clone(),
                    roots: roots.clone(),
                };
                let known = before.filter(|keys| keys.location == location);
                let keys = known.map_or_else(|| Arc::new(IssuerKeys::new(location)), Arc::clone);
                RunningKeys::Published(keys)
            }
        };
        Self {
            sources: config.from.clone(),
            verifier: TokenVerifier::new(&config.issuer, &config.audience, config.leeway),
            keys,
        }
    }

    /// The keys that the issuer publishes, if they are not from a file.
    pub fn issuer_keys(&self) -> Option<&Arc<IssuerKeys>> {
        match &self.keys {
            RunningKeys::Fixed(_) => None,
            RunningKeys::Published(keys) => Some(keys),
        }
    }

    /// Who has sent a request, and what is removed from it. Waits a moment if the issuer has to be asked for the key.
    /// `verified` has the tokens that this worker has verified lately.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn identify(
        &self,
        headers: &HeaderMap,
        target: &Target,
        verified: &VerifiedTokens,
    ) -> Result<(EstablishedIdentity, Redaction), TokenError> {
        let credential = Credential::find(&self.sources, headers, target.query())?;
        let credential = credential.ok_or(TokenError::Missing)?;
        let token = match self.verify(credential.as_str(), verified) {
            Err(fault) if fault.may_be_for_newer_keys() => {
                if let Some(keys) = self.issuer_keys() {
                    keys.ask_again().await;
                }
                self.verify(credential.as_str(), verified)?
            }
            decided => decided?,
        };
        let redaction = credential.redaction(&self.sources, headers, target.origin_form());
        let identity = EstablishedIdentity {
            subject: token.subject,
            claims: Claims::new(token.claims),
            issued: token.issued,
            expires: Some(token.expires),
            fields: Vec::new(),
            question: None,
        };
        Ok((identity, redaction))
    }

    fn verify(&self, token: &str, verified: &VerifiedTokens) -> Result<VerifiedToken, TokenFault> {
        let fetched;
        let keys = match &self.keys {
            RunningKeys::Fixed(keys) => keys,
            RunningKeys::Published(keys) => {
                fetched = keys.current().ok_or(TokenFault::NoKeys)?;
                &*fetched
            }
        };
        self.verifier
            .verify(keys, token, verified, SystemTime::now())
    }
}
