//! What a token must say, besides being signed: its issuer, its audience, its time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::fault::TokenFault;
use super::key_set::KeySet;
use super::verified_tokens::VerifiedTokens;

/// Checks the tokens of one issuer.
#[derive(Debug)]
pub struct TokenVerifier {
    issuer: Box<str>,
    audience: Vec<Box<str>>,
    leeway: Duration,
}

/// A token that is accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedToken {
    /// The identity that it is about.
    pub subject: Option<Box<str>>,
    /// Until when it holds.
    pub expires: SystemTime,
    /// When it was issued.
    pub issued: Option<SystemTime>,
    /// All that it says.
    pub claims: Map<String, Value>,
}

impl TokenVerifier {
    /// Accepts tokens by `issuer` for one of `audience`. Their `nbf` and `iat` may be ahead by `leeway`, because clocks
    /// differ. There is none for `exp`: what a token lets in ends with it, at the latest.
    pub fn new(issuer: &str, audience: &[Box<str>], leeway: Duration) -> Self {
        Self {
            issuer: issuer.into(),
            audience: audience.to_vec(),
            leeway,
        }
    }

    /// Verifies a token with these keys, whose signature is not verified again if it is among `verified`.
    ///
    /// # Errors
    /// [`TokenFault`].
    pub fn verify(
        &self,
        keys: &KeySet,
        token: &str,
        verified: &VerifiedTokens,
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenFault> {
        let genuine = keys.verify(token, verified)?;
        let accepted = self.accepted(genuine.claims, now)?;
        // Not before: issuers sign many tokens that are for others, and these would push out ours.
        verified.insert(genuine.digest);
        Ok(accepted)
    }

    /// Checks what a token says whose signature is right.
    fn accepted(
        &self,
        claims: Map<String, Value>,
        now: SystemTime,
    ) -> Result<VerifiedToken, TokenFault> {
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        let expires = time(&claims, "exp")?.ok_or(TokenFault::Missing("exp"))?;
        if now >= expires {
            return Err(TokenFault::Expired);
        }
        let begins = time(&claims, "nbf")?;
        if begins.is_some_and(|begins| self.is_ahead(begins, now)) {
            return Err(TokenFault::NotYet);
        }
        let issued = time(&claims, "iat")?;
        // It would outlive every revocation until then.
        if issued.is_some_and(|issued| self.is_ahead(issued, now)) {
            return Err(TokenFault::IssuedLater);
        }
        let subject = match claims.get("sub") {
            None => None,
            Some(Value::String(subject)) => Some(subject.as_str().into()),
            Some(_) => return Err(TokenFault::ClaimType("sub")),
        };
        Ok(VerifiedToken {
            subject,
            expires,
            issued,
            claims,
        })
    }

    fn is_ahead(&self, time: SystemTime, now: SystemTime) -> bool {
        time.duration_since(now).unwrap_or_default() > self.leeway
    }

    fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), TokenFault> {
        match claims.get("iss") {
            Some(Value::String(issuer)) if **issuer == *self.issuer => Ok(()),
            Some(Value::String(_)) => Err(TokenFault::Issuer),
            Some(_) => Err(TokenFault::ClaimType("iss")),
            None => Err(TokenFault::Missing("iss")),
        }
    }

    fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), TokenFault> {
        let is_ours = |audience: &str| self.audience.iter().any(|own| **own == *audience);
        let is_any_ours = match claims.get("aud") {
            Some(Value::String(audience)) => is_ours(audience),
            Some(Value::Array(list)) => {
                let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                let texts = texts.ok_or(TokenFault::ClaimType("aud"))?;
                texts.into_iter().any(is_ours)
            }
            Some(_) => return Err(TokenFault::ClaimType("aud")),
            None => return Err(TokenFault::Missing("aud")),
        };
        match is_any_ours {
            true => Ok(()),
            false => Err(TokenFault::Audience),
        }
    }
}

/// A claim that is a time: seconds since 1970, which may have fractions (RFC 7519 section 2).
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<SystemTime>, TokenFault> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let since = match (value.as_u64(), value.as_f64()) {
        (Some(seconds), _) => Some(Duration::from_secs(seconds)),
        (None, Some(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        (None, None) => None,
    };
    let time = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    time.map(Some).ok_or(TokenFault::ClaimType(name))
}

#[cfg(test)]
mod tests;
