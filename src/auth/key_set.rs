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

    /// What a token says, if its signature is verified by the key that its header names, or has been lately, as `verified`
    /// remembers. Its claims are still to be checked.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub(super) fn verify(
        &self,
        token: &str,
        verified: &VerifiedTokens,
    ) -> Result<Map<String, Value>, TokenFault> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenFault::Malformed);
        }
        let digest = TokenDigest::of(token, self.number);
        if !verified.contains(&digest) {
            self.verify_signature(&SignedToken::parse(token)?)?;
            verified.insert(digest);
        }
        signed_token::claims(token)
    }

    /// Verifies the signature with the key that the header names. A token that names no key, or a key that has no id, is
    /// tried with those that could have signed it.
    fn verify_signature(&self, token: &SignedToken<'_>) -> Result<(), TokenFault> {
        let id = token.key_id.as_deref();
        let named = |key: &&VerificationKey| id.is_some() && key.id.as_deref() == id;
        if self.keys.iter().any(|key| named(&key)) {
            let mut named = self.keys.iter().filter(named);
            // Two keys of one id differ in their kind.
            let key = named.find(|key| key.fits(token));
            return key.ok_or(TokenFault::Algorithm)?.verify(token);
        }
        let nameless = |key: &&VerificationKey| id.is_none() || key.id.is_none();
        let candidates = self.keys.iter().filter(nameless);
        for key in candidates.filter(|key| key.fits(token)).take(MAX_TRIES) {
            match key.verify(token) {
                Err(TokenFault::Signature) => {}
                verified => return verified,
            }
        }
        // A key that the issuer has published since may verify it, also one of another kind than all of these.
        Err(match id {
            Some(_) => TokenFault::UnknownKey,
            None => TokenFault::NoKeyVerifies,
        })
    }
}

#[cfg(test)]
mod tests;
