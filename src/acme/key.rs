//! A new key for each certificate, and the request for one.

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
    PublicKeyData as _, RsaKeySize,
};
use rustls::pki_types::CertificateSigningRequestDer;
use zeroize::Zeroizing;

use super::errors::AcmeError;
use crate::config::model::{HostPattern, KeyType};

/// The name of a kind of key.
pub(super) fn key_type_name(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::EcdsaP256 => "ecdsa-p256",
        KeyType::Rsa2048 => "rsa-2048",
    }
}

/// A new key in PEM. An RSA key takes a while, so this is on a thread for work that blocks.
pub(super) async fn new_key(key_type: KeyType) -> Result<Zeroizing<String>, AcmeError> {
    let made = blocking(move || {
        let key = match key_type {
            KeyType::EcdsaP256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        key.map(|key| Zeroizing::new(key.serialize_pem()))
    });
    made.await
        .map_err(|error| AcmeError::Key(error.to_string()))
}

/// The public key of this key, in the form that a certificate has it in; `None` if it is not a key.
pub(super) fn public_key(pem: &str) -> Option<Vec<u8>> {
    let pair = KeyPair::from_pem(pem).ok()?;
    Some(pair.subject_public_key_info())
}

/// A request for a certificate for these names, made with this key.
pub(super) async fn request(
    key: Zeroizing<String>,
    names: &[HostPattern],
) -> Result<CertificateSigningRequestDer<'static>, AcmeError> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = blocking(move || {
        let pair = KeyPair::from_pem(&key)?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&pair)?.der().clone())
    });
    made.await
        .map_err(|error: rcgen::Error| AcmeError::Key(error.to_string()))
}

/// Runs `work` on a thread for work that blocks. A panic in it goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::certificate;
    use super::*;

    #[tokio::test]
    async fn keys_are_new_and_of_the_kind_that_is_wanted() {
        for (key_type, algorithm) in [
            (KeyType::EcdsaP256, &PKCS_ECDSA_P256_SHA256),
            (KeyType::Rsa2048, &PKCS_RSA_SHA256),
        ] {
            let keys = [
                new_key(key_type).await.unwrap(),
                new_key(key_type).await.unwrap(),
            ];
            assert_ne!(keys[0], keys[1]);
            let pair = KeyPair::from_pem(&keys[0]).unwrap();
            assert!(pair.is_compatible(algorithm), "{key_type:?}");
            let names = certificate(&["a.example.com", "*.b.example.com"]).names;
            let made = request(keys[0].clone(), &names).await.unwrap();
            // What a certificate will have.
            let public = public_key(&keys[0]).unwrap();
            assert!(made.windows(public.len()).any(|part| part == public));
            assert_ne!(Some(public), public_key(&keys[1]));
            for name in ["a.example.com", "*.b.example.com"] {
                assert!(made.windows(name.len()).any(|part| part == name.as_bytes()));
            }
        }
    }
}
