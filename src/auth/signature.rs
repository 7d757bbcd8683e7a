//! The signatures of tokens. This is the only file that knows the library that verifies them.

use std::fmt;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::fault::TokenFault;
use crate::config::key_set::{KeyMaterial, PublishedKey, SECRET_ALGORITHMS, TokenAlgorithm};

/// What the header of a token says about its signature. It is a claim like any other: it only chooses among keys,
/// each of which has its own algorithms.
#[derive(Debug)]
pub(super) struct SignatureHeader {
    algorithm: Algorithm,
    /// The id of the key.
    pub(super) key_id: Option<String>,
}

impl SignatureHeader {
    /// Reads the header of a token.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`], [`TokenFault::Critical`].
    pub(super) fn of(token: &str) -> Result<Self, TokenFault> {
        let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
        // An issuer that sets it wants the token refused by all that do not know the extension.
        if header.crit.is_some() {
            return Err(TokenFault::Critical);
        }
        Ok(Self {
            algorithm: header.alg,
            key_id: header.kid,
        })
    }
}

/// A key that verifies tokens.
pub(super) struct VerificationKey {
    /// Its id, if it has one.
    pub(super) id: Option<Box<str>>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerificationKey({:?})", self.algorithms)
    }
}

impl VerificationKey {
    /// A public key.
    pub(super) fn published(key: &PublishedKey) -> Self {
        Self {
            id: key.id.clone(),
            algorithms: key.algorithms.iter().map(|it| algorithm(*it)).collect(),
            key: match &key.material {
                KeyMaterial::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
                KeyMaterial::Ec(point) => DecodingKey::from_ec_der(point),
                KeyMaterial::Ed(key) => DecodingKey::from_ed_der(key),
            },
        }
    }

    /// A secret; `None` for an empty one.
    pub(super) fn secret(secret: &[u8]) -> Option<Self> {
        Some(Self {
            id: None,
            algorithms: SECRET_ALGORITHMS.iter().map(|it| algorithm(*it)).collect(),
            key: DecodingKey::from_secret(secret).ok()?,
        })
    }

    /// Whether it verifies signatures by the algorithm in the header.
    pub(super) fn fits(&self, header: &SignatureHeader) -> bool {
        self.algorithms.contains(&header.algorithm)
    }

    /// Verifies the signature. The claims are still to be checked.
    ///
    /// # Errors
    /// [`TokenFault::Signature`], [`TokenFault::Malformed`], [`TokenFault::Algorithm`].
    pub(super) fn verify(
        &self,
        token: &str,
        header: &SignatureHeader,
    ) -> Result<Map<String, Value>, TokenFault> {
        if !self.fits(header) {
            return Err(TokenFault::Algorithm);
        }
        let mut validation = Validation::new(header.algorithm);
        // Claims are checked where the time is known, on what is used afterwards.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        match decode::<Map<String, Value>>(token, &self.key, &validation) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => {
                    TokenFault::Algorithm
                }
                ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidToken => {
                    TokenFault::Malformed
                }
                // Keys that are not valid verify nothing.
                _ => TokenFault::Signature,
            }),
        }
    }
}

fn algorithm(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::Hs256 => Algorithm::HS256,
        TokenAlgorithm::Hs384 => Algorithm::HS384,
        TokenAlgorithm::Hs512 => Algorithm::HS512,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
        TokenAlgorithm::Rs384 => Algorithm::RS384,
        TokenAlgorithm::Rs512 => Algorithm::RS512,
        TokenAlgorithm::Ps256 => Algorithm::PS256,
        TokenAlgorithm::Ps384 => Algorithm::PS384,
        TokenAlgorithm::Ps512 => Algorithm::PS512,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Es384 => Algorithm::ES384,
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
    }
}
