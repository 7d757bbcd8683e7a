//! The signatures of tokens. This is the only file that knows the library that verifies them.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};

use super::fault::TokenFault;
use super::signed_token::SignedToken;
use crate::config::key_set::{KeyMaterial, PublishedKey, SECRET_ALGORITHMS, TokenAlgorithm};

/// A key that verifies tokens.
pub(super) struct VerificationKey {
    /// Its id, if it has one.
    pub(super) id: Option<Box<str>>,
    /// One for each algorithm that the key is for.
    verifiers: Vec<(TokenAlgorithm, SignatureVerifier)>,
}

/// A key, ready for one algorithm. To read a key takes as long as to verify a signature.
enum SignatureVerifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
    /// The key is not valid, and verifies nothing.
    Invalid,
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms = self.verifiers.iter().map(|(algorithm, _)| algorithm);
        f.debug_list().entries(algorithms).finish()
    }
}

impl VerificationKey {
    /// A public key.
    pub(super) fn published(key: &PublishedKey) -> Self {
        let verifier = |algorithm| {
            let parsed = public_key(&key.material, algorithm);
            parsed.map_or(SignatureVerifier::Invalid, SignatureVerifier::Public)
        };
        Self {
            id: key.id.clone(),
            verifiers: (key.algorithms.iter())
                .map(|algorithm| (*algorithm, verifier(*algorithm)))
                .collect(),
        }
    }

    /// A secret; `None` for an empty one.
    pub(super) fn secret(secret: &[u8]) -> Option<Self> {
        let verifier = |algorithm: &TokenAlgorithm| {
            let key = hmac::Key::new(hash(*algorithm)?, secret);
            Some((*algorithm, SignatureVerifier::Secret(Box::new(key))))
        };
        (!secret.is_empty()).then(|| Self {
            id: None,
            verifiers: SECRET_ALGORITHMS.iter().filter_map(verifier).collect(),
        })
    }

    /// Whether it is for signatures by the algorithm in the header.
    pub(super) fn fits(&self, token: &SignedToken<'_>) -> bool {
        self.verifier(token.algorithm).is_some()
    }

    /// Whether it also is a valid key for them.
    pub(super) fn can_verify(&self, token: &SignedToken<'_>) -> bool {
        let verifier = self.verifier(token.algorithm);
        verifier.is_some_and(|verifier| !matches!(verifier, SignatureVerifier::Invalid))
    }

    fn verifier(&self, algorithm: TokenAlgorithm) -> Option<&SignatureVerifier> {
        let mut verifiers = self.verifiers.iter();
        let found = verifiers.find(|(known, _)| *known == algorithm);
        found.map(|(_, verifier)| verifier)
    }

    /// Verifies the signature. The claims are still to be checked.
    ///
    /// # Errors
    /// [`TokenFault::Signature`], [`TokenFault::Algorithm`].
    pub(super) fn verify(&self, token: &SignedToken<'_>) -> Result<(), TokenFault> {
        let verifier = self.verifier(token.algorithm);
        let (message, signature) = (token.message, &*token.signature);
        let is_genuine = match verifier.ok_or(TokenFault::Algorithm)? {
            SignatureVerifier::Public(key) => key.verify_sig(message, signature).is_ok(),
            SignatureVerifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            SignatureVerifier::Invalid => false,
        };
        match is_genuine {
            true => Ok(()),
            false => Err(TokenFault::Signature),
        }
    }
}

/// A public key, ready for this algorithm; `None` if it is not valid, or is of another kind.
fn public_key(material: &KeyMaterial, algorithm: TokenAlgorithm) -> Option<ParsedPublicKey> {
    match material {
        KeyMaterial::Rsa { n, e } => {
            let key = RsaPublicKeyComponents { n, e };
            key.to_parsed_public_key(rsa(algorithm)?).ok()
        }
        KeyMaterial::Ec(point) => ParsedPublicKey::new(curve(algorithm)?, point).ok(),
        KeyMaterial::Ed(key) if algorithm == TokenAlgorithm::EdDsa => {
            ParsedPublicKey::new(&ED25519, key).ok()
        }
        KeyMaterial::Ed(_) => None,
    }
}

fn rsa(algorithm: TokenAlgorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        TokenAlgorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        TokenAlgorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        TokenAlgorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        TokenAlgorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        TokenAlgorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        TokenAlgorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn curve(algorithm: TokenAlgorithm) -> Option<&'static dyn VerificationAlgorithm> {
    match algorithm {
        TokenAlgorithm::Es256 => Some(&ECDSA_P256_SHA256_FIXED),
        TokenAlgorithm::Es384 => Some(&ECDSA_P384_SHA384_FIXED),
        _ => None,
    }
}

fn hash(algorithm: TokenAlgorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        TokenAlgorithm::Hs256 => Some(hmac::HMAC_SHA256),
        TokenAlgorithm::Hs384 => Some(hmac::HMAC_SHA384),
        TokenAlgorithm::Hs512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}
