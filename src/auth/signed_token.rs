//! The parts of a signed token (RFC 7515 section 7.1), as anybody can read them. Whether what they say is true is not
//! known here: `signature` verifies, and `key_set` chooses the key.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::fault::TokenFault;
use crate::config::key_set::TokenAlgorithm;

/// A token whose signature has not been verified yet.
#[derive(Debug)]
pub(super) struct SignedToken<'t> {
    /// What is signed.
    pub(super) message: &'t [u8],
    pub(super) signature: Vec<u8>,
    /// The algorithm in its header. It is a claim like any other: it only chooses among keys, each of which has its own
    /// algorithms.
    pub(super) algorithm: TokenAlgorithm,
    /// The id of the key.
    pub(super) key_id: Option<String>,
}

impl<'t> SignedToken<'t> {
    /// Takes a token apart, except for its claims.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`], [`TokenFault::Critical`].
    pub(super) fn parse(token: &'t str) -> Result<Self, TokenFault> {
        let parts = TokenParts::of(token)?;
        let header = object(parts.header)?;
        // An issuer that sets it wants the token refused by all that do not know the extension.
        match header.get("crit") {
            None => {}
            Some(Value::Array(_)) => return Err(TokenFault::Critical),
            Some(_) => return Err(TokenFault::Malformed),
        }
        // Claims that are not encoded (RFC 7797) would be read as something else.
        if !matches!(header.get("b64"), None | Some(Value::Bool(true))) {
            return Err(TokenFault::Malformed);
        }
        let algorithm = header.get("alg").and_then(Value::as_str);
        Ok(Self {
            message: parts.message.as_bytes(),
            signature: decoded(parts.signature)?,
            algorithm: algorithm
                .and_then(TokenAlgorithm::named)
                .ok_or(TokenFault::Malformed)?,
            key_id: match header.get("kid") {
                None | Some(Value::Null) => None,
                Some(Value::String(id)) => Some(id.clone()),
                Some(_) => return Err(TokenFault::Malformed),
            },
        })
    }
}

/// What a token says. It is true only if the signature of this very token is.
///
/// # Errors
/// [`TokenFault::Malformed`].
pub(super) fn claims(token: &str) -> Result<Map<String, Value>, TokenFault> {
    object(TokenParts::of(token)?.claims)
}

/// The parts of a token, encoded.
struct TokenParts<'t> {
    message: &'t str,
    header: &'t str,
    claims: &'t str,
    signature: &'t str,
}

impl<'t> TokenParts<'t> {
    fn of(token: &'t str) -> Result<Self, TokenFault> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        // A further dot would be in the header, where decoding finds it.
        let (header, claims) = message.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        Ok(Self {
            message,
            header,
            claims,
            signature,
        })
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenFault> {
    let decoded = URL_SAFE_NO_PAD.decode(part);
    decoded.map_err(|_| TokenFault::Malformed)
}

fn object(part: &str) -> Result<Map<String, Value>, TokenFault> {
    let object: Result<UniqueNames, _> = serde_json::from_slice(&decoded(part)?);
    object.map(|it| it.0).map_err(|_| TokenFault::Malformed)
}

/// A JSON object in which each name stands once (RFC 7515 section 4, RFC 7519 section 4): a reader that takes the first
/// of two would see another token than one that takes the last.
struct UniqueNames(Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueNamesVisitor)
    }
}

struct UniqueNamesVisitor;

impl<'de> Visitor<'de> for UniqueNamesVisitor {
    type Value = UniqueNames;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object in which each name stands once")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueNames, A::Error> {
        let mut object = Map::new();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name stands twice"));
            }
        }
        Ok(UniqueNames(object))
    }
}
