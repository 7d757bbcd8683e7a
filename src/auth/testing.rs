//! What unit tests of this layer share: keys of issuers, and tokens that they have signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA384, RsaKeyPair,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::config::key_set::{KeyMaterial, PublishedKey, TokenAlgorithm};

pub(super) const ISSUER: &str = "https://id.example.com";
pub(super) const AUDIENCE: &str = "chat";

/// The time at which tokens are verified.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// Claims that are accepted.
pub(super) fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "exp": 2_000_000_060, "sub": "me" })
}

/// Makes the signature of a message.
type SignMessage = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// A key of an issuer.
pub(super) struct TestKey {
    /// The public half; `None` for a secret.
    pub(super) published: Option<PublishedKey>,
    algorithm: &'static str,
    sign: SignMessage,
}

impl TestKey {
    fn new(
        algorithm: (&'static str, TokenAlgorithm),
        material: KeyMaterial,
        sign: impl Fn(&[u8]) -> Vec<u8> + 'static,
    ) -> Self {
        Self {
            published: Some(PublishedKey {
                id: Some(algorithm.0.to_lowercase().into()),
                algorithms: vec![algorithm.1],
                material,
            }),
            algorithm: algorithm.0,
            sign: Box::new(sign),
        }
    }

    pub(super) fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap();
        let public = KeyMaterial::Ed(pair.public_key().as_ref().to_vec());
        Self::new(("EdDSA", TokenAlgorithm::EdDsa), public, move |message| {
            pair.sign(message).as_ref().to_vec()
        })
    }

    fn ec(
        algorithm: (&'static str, TokenAlgorithm),
        curve: &'static EcdsaSigningAlgorithm,
    ) -> Self {
        let random = SystemRandom::new();
        let made = EcdsaKeyPair::generate_pkcs8(curve, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(curve, made.as_ref()).unwrap();
        let public = KeyMaterial::Ec(pair.public_key().as_ref().to_vec());
        Self::new(algorithm, public, move |message| {
            pair.sign(&random, message).unwrap().as_ref().to_vec()
        })
    }

    pub(super) fn p256() -> Self {
        Self::ec(
            ("ES256", TokenAlgorithm::Es256),
            &ECDSA_P256_SHA256_FIXED_SIGNING,
        )
    }

    pub(super) fn p384() -> Self {
        Self::ec(
            ("ES384", TokenAlgorithm::Es384),
            &ECDSA_P384_SHA384_FIXED_SIGNING,
        )
    }

    pub(super) fn rsa(is_pss: bool) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
        let (n, e) = (public.n, public.e);
        let (algorithm, padding): (_, &'static dyn aws_lc_rs::signature::RsaEncoding) = match is_pss
        {
            true => (("PS384", TokenAlgorithm::Ps384), &RSA_PSS_SHA384),
            false => (("RS256", TokenAlgorithm::Rs256), &RSA_PKCS1_SHA256),
        };
        Self::new(algorithm, KeyMaterial::Rsa { n, e }, move |message| {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(padding, &SystemRandom::new(), message, &mut signature)
                .unwrap();
            signature
        })
    }

    pub(super) fn secret(secret: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self {
            published: None,
            algorithm: "HS256",
            sign: Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec()),
        }
    }

    /// The public half.
    pub(super) fn public(&self) -> PublishedKey {
        self.published.clone().unwrap()
    }

    /// A token whose header says what is right, with the changes in `header`.
    pub(super) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let id = self.published.as_ref().and_then(|key| key.id.as_deref());
        let mut whole = json!({ "alg": self.algorithm, "typ": "JWT", "kid": id });
        for (name, value) in header.as_object().unwrap() {
            whole[name] = value.clone();
        }
        self.signed(&whole.to_string(), &claims.to_string())
    }

    /// A token with claims that are written like this.
    pub(super) fn token_of_text(&self, claims: &str) -> String {
        let header = json!({ "alg": self.algorithm });
        self.signed(&header.to_string(), claims)
    }

    fn signed(&self, header: &str, claims: &str) -> String {
        let message = [header, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let signature = URL_SAFE_NO_PAD.encode((self.sign)(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token with these claims.
    pub(super) fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({}), claims)
    }
}
