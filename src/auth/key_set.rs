//! The keys of one issuer, and which of them verifies a token.

use serde_json::{Map, Value};

use super::fault::TokenFault;
use super::signature::VerificationKey;
use super::signed_token::{self, SignedToken};
use super::verified_tokens::{KeySetNumber, TokenDigest, VerifiedTokens};
use crate::config::key_set::PublishedKey;
use crate::config::model::Secret;
use crate::protocol::credential::MAX_TOKEN_BYTES;

/// How many keys are tried for one token: clients decide that, by leaving out the id of the key.
const MAX_TRIES: usize = 4;

/// A token whose signature is right. Its claims are still to be checked.
#[derive(Debug)]
pub(super) struct GenuineToken {
    /// What it says.
    pub(super) claims: Map<String, Value>,
    /// To remember it by, once it is accepted.
    pub(super) digest: TokenDigest,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeySet {
    number: KeySetNumber,
    keys: Vec<VerificationKey>,
}

impl KeySet {
    /// Keys that the issuer publishes.
    pub fn published(keys: &[PublishedKey]) -> Self {
        Self::new(keys.iter().map(VerificationKey::published).collect())
    }

    /// A secret that the issuer shares with us.
    pub fn secret(secret: &Secret) -> Self {
        let key = VerificationKey::secret(secret.bytes());
        Self::new(key.into_iter().collect())
    }

    fn new(keys: Vec<VerificationKey>) -> Self {
        Self {
            number: KeySetNumber::next(),
            keys,
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// A token whose signature is verified by the key that its header names, or has been lately, as `verified`
    /// remembers.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub(super) fn verify(
        &self,
        token: &str,
        verified: &VerifiedTokens,
    ) -> Result<GenuineToken, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::Malformed);
        }
        let digest = TokenDigest::of(token, self.number);
        if !verified.contains(&digest) {
            self.verify_signature(&SignedToken::parse(token)?)?;
        }
        let claims = signed_token::claims(token)?;
        Ok(GenuineToken { claims, digest })
    }

    /// Verifies the signature with the key that the header names. A token that names no key, or a key that has no id, is
    /// tried with those that could have signed it.
    fn verify_signature(&self, token: &SignedToken<'_>) -> Result<(), TokenFault> {
        let id = token.key_id.as_deref();
        let named = |key: &&VerificationKey| id.is_some() && key.id.as_deref() == id;
        if self.keys.iter().any(|key| named(&key)) {
            // Several keys may have one id: of different kinds (RFC 7517 section 4.5), or by a mistake of the issuer.
            let mut fitting = self.keys.iter().filter(named).filter(|key| key.fits(token));
            let first = fitting.next().ok_or(TokenFault::Algorithm)?;
            return match is_verified(token, std::iter::once(first).chain(fitting)) {
                true => Ok(()),
                false => Err(TokenFault::Signature),
            };
        }
        let nameless = |key: &&VerificationKey| id.is_none() || key.id.is_none();
        if is_verified(token, self.keys.iter().filter(nameless)) {
            return Ok(());
        }
        // A key that the issuer has published since may verify it, also one of another kind than all of these.
        Err(match id {
            Some(_) => TokenFault::UnknownKey,
            None => TokenFault::NoKeyVerifies,
        })
    }
}

/// Whether one of the first of these keys that could have signed the token has done so.
fn is_verified<'k>(
    token: &SignedToken<'_>,
    keys: impl Iterator<Item = &'k VerificationKey>,
) -> bool {
    let mut able = keys.filter(|key| key.can_verify(token)).take(MAX_TRIES);
    able.any(|key| key.verify(token).is_ok())
}

#[cfg(test)]
mod tests;
