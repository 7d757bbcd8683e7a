//! Sealed contents of items: who may only read a store learns no key, and who may also write to it can neither
//! make an item nor change one. What such a person can do is to remove items, and to put back what was there
//! before.
//!
//! A sealed content is `sealed:` and base64 of: the format (1 byte), what identifies the secret (8 bytes), a random
//! nonce (12 bytes), and the ciphertext of AES-256-GCM with its tag. The kind and the name of the item, and the part
//! of the store that it is in, are authenticated with it, so that no item passes for another one.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::ItemKind;
use crate::config::model::Secret;

/// What a sealed content begins with.
const PREFIX: &str = "sealed:";

/// The format of what follows.
const FORMAT: u8 = 1;

/// The length of what identifies a secret.
const ID_LEN: usize = 8;

const KEY_LEN: usize = 32;

/// The salt of key derivation: no other use of the same secret derives the same key.
const SALT: &[u8] = b"tidegate sealed item 1";

/// Seals the items in one part of a store, and opens them.
pub struct Sealer {
    scope: Box<str>,
    /// The first one seals; all of them open.
    keys: Vec<SealingKey>,
}

struct SealingKey {
    id: [u8; ID_LEN],
    aead: RandomizedNonceKey,
}

/// What a sealed item contains.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedContent {
    /// The content.
    pub content: Zeroizing<Vec<u8>>,
    /// Whether it was sealed with another secret than the first one.
    pub is_outdated: bool,
}

/// Why a sealed item cannot be opened, or a content cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It does not have the form of a sealed item.
    #[error("it is not sealed as this version of tidegate seals")]
    Form,
    /// None of the secrets has sealed it.
    #[error("it is sealed with a secret that `store.secret_file` does not contain")]
    OtherSecret,
    /// It was changed, or it belongs somewhere else.
    #[error("it was changed by something else than tidegate, or copied from another item")]
    Changed,
    /// The library rejects a key, or the system has no random bytes.
    #[error("the cryptographic library reports an error")]
    Library,
}

impl From<Unspecified> for SealError {
    fn from(_: Unspecified) -> Self {
        Self::Library
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, {} keys)", self.scope, self.keys.len())
    }
}

impl Sealer {
    /// Seals with the first of `secrets`, and opens with all of them. `scope` is the part of the store: items of
    /// one are not valid in another one.
    ///
    /// # Errors
    /// [`SealError::Library`], also if there is no secret.
    pub fn new(secrets: &[Secret], scope: &str) -> Result<Self, SealError> {
        let keys: Result<Vec<_>, _> = secrets.iter().map(SealingKey::of).collect();
        let keys = keys?;
        if keys.is_empty() {
            return Err(SealError::Library);
        }
        Ok(Self {
            scope: scope.into(),
            keys,
        })
    }

    /// The sealed form of `content`, for the item of this kind and name.
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn seal(&self, kind: ItemKind, name: &str, content: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.keys.first().ok_or(SealError::Library)?;
        let mut sealed = Zeroizing::new(content.to_vec());
        let place = Aad::from(self.place(kind, name));
        let nonce = key.aead.seal_in_place_append_tag(place, &mut *sealed)?;
        let bytes = [&[FORMAT], &key.id[..], nonce.as_ref(), &sealed].concat();
        Ok(format!("{PREFIX}{}\n", STANDARD.encode(bytes)).into_bytes())
    }

    /// The content of a sealed item of this kind and name.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(
        &self,
        kind: ItemKind,
        name: &str,
        sealed: &[u8],
    ) -> Result<OpenedContent, SealError> {
        let text = sealed.strip_prefix(PREFIX.as_bytes());
        let text = text.ok_or(SealError::Form)?.trim_ascii_end();
        let bytes = STANDARD.decode(text).map_err(|_| SealError::Form)?;
        let Some((&FORMAT, rest)) = bytes.split_first() else {
            return Err(SealError::Form);
        };
        let (id, rest) = rest.split_first_chunk::<ID_LEN>().ok_or(SealError::Form)?;
        let (nonce, sealed) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Form)?;
        let position = self.keys.iter().position(|key| key.id == *id);
        let position = position.ok_or(SealError::OtherSecret)?;
        let key = self.keys.get(position).ok_or(SealError::OtherSecret)?;
        let mut content = Zeroizing::new(sealed.to_vec());
        let place = Aad::from(self.place(kind, name));
        let opened = key
            .aead
            .open_in_place(Nonce::from(nonce), place, &mut content);
        let length = opened.map_err(|_| SealError::Changed)?.len();
        content.truncate(length);
        Ok(OpenedContent {
            content,
            is_outdated: position > 0,
        })
    }

    /// What the item is and where. Each part has its length in front of it, so that no two places look the same.
    fn place(&self, kind: ItemKind, name: &str) -> Vec<u8> {
        let mut place = vec![FORMAT];
        for part in [&*self.scope, kind.folder(), name] {
            place.extend((part.len() as u64).to_be_bytes());
            place.extend(part.as_bytes());
        }
        place
    }
}

impl SealingKey {
    fn of(secret: &Secret) -> Result<Self, Unspecified> {
        let mut derived = Zeroizing::new([0; ID_LEN + KEY_LEN]);
        Salt::new(HKDF_SHA256, SALT)
            .extract(secret.bytes())
            .expand(&[b"AES-256-GCM"], SealingLength)?
            .fill(&mut *derived)?;
        let (id, key) = derived.split_first_chunk().ok_or(Unspecified)?;
        Ok(Self {
            id: *id,
            aead: RandomizedNonceKey::new(&AES_256_GCM, key)?,
        })
    }
}

/// The length of derived key material.
struct SealingLength;

impl KeyType for SealingLength {
    fn len(&self) -> usize {
        ID_LEN + KEY_LEN
    }
}

/// What unit tests here and above seal with: secrets that consist of one byte each.
#[cfg(test)]
pub(crate) fn sealer(fills: &[u8], scope: &str) -> Sealer {
    let secret = |fill: &u8| Secret::new(Zeroizing::new(vec![*fill; 32]));
    let secrets: Vec<_> = fills.iter().map(secret).collect();
    Sealer::new(&secrets, scope).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIND: ItemKind = ItemKind::Certificate;

    #[test]
    fn a_sealed_item_is_opened_in_its_own_place_alone() {
        let own = sealer(&[1], "acme/le");
        let sealed = own.seal(KIND, "a", b"-----BEGIN PRIVATE KEY").unwrap();
        let opened = own.open(KIND, "a", &sealed).unwrap();
        assert_eq!(&**opened.content, b"-----BEGIN PRIVATE KEY");
        assert!(!opened.is_outdated);
        let text = str::from_utf8(&sealed).unwrap();
        assert!(text.starts_with("sealed:") && !text.contains("PRIVATE"));
        assert_ne!(own.seal(KIND, "a", b"x"), own.seal(KIND, "a", b"x"));
        for opened in [
            own.open(KIND, "b", &sealed),
            own.open(ItemKind::Account, "a", &sealed),
            sealer(&[1], "acme/l").open(KIND, "a", &sealed),
            sealer(&[1], "keys").open(KIND, "a", &sealed),
        ] {
            assert_eq!(opened, Err(SealError::Changed));
        }
        // A part that ends elsewhere is another part.
        let moved = sealer(&[1], "ab").place(KIND, "c");
        assert_ne!(moved, sealer(&[1], "a").place(KIND, "bc"));
    }

    #[test]
    fn of_two_secrets_the_first_one_seals_and_both_open() {
        let (old, both, new) = (sealer(&[1], ""), sealer(&[2, 1], ""), sealer(&[2], ""));
        let sealed = old.seal(KIND, "a", b"key").unwrap();
        let opened = both.open(KIND, "a", &sealed).unwrap();
        assert_eq!((&**opened.content, opened.is_outdated), (&b"key"[..], true));
        assert_eq!(new.open(KIND, "a", &sealed), Err(SealError::OtherSecret));
        let again = both.seal(KIND, "a", b"key").unwrap();
        assert!(!new.open(KIND, "a", &again).unwrap().is_outdated);
        assert_eq!(old.open(KIND, "a", &again), Err(SealError::OtherSecret));
        assert!(Sealer::new(&[], "").is_err());
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let sealer = sealer(&[1], "");
        let sealed = sealer.seal(KIND, "a", b"key").unwrap();
        let bytes = STANDARD.decode(sealed[7..].trim_ascii_end()).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let changed = format!("sealed:{}", STANDARD.encode(&changed));
            let opened = sealer.open(KIND, "a", changed.as_bytes());
            let expected = match at {
                0 => SealError::Form,
                1..=8 => SealError::OtherSecret,
                _ => SealError::Changed,
            };
            assert_eq!(opened, Err(expected), "{at}");
        }
        for cut in 0..bytes.len() {
            let changed = format!("sealed:{}", STANDARD.encode(&bytes[..cut]));
            assert!(sealer.open(KIND, "a", changed.as_bytes()).is_err(), "{cut}");
        }
        let plain = sealer.open(KIND, "a", b"-----BEGIN CERTIFICATE-----");
        assert_eq!(plain, Err(SealError::Form));
    }

    proptest! {
        #[test]
        fn any_content_comes_back(content in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sealer = sealer(&[1], "");
            let sealed = sealer.seal(KIND, "a", &content).unwrap();
            let opened = sealer.open(KIND, "a", &sealed).unwrap();
            prop_assert_eq!(&**opened.content, &content[..]);
        }

        #[test]
        fn nothing_panics(content in proptest::collection::vec(any::<u8>(), 0..100)) {
            let sealer = sealer(&[1], "");
            prop_assert!(sealer.open(KIND, "a", &content).is_err());
            let sealed = format!("sealed:{}", STANDARD.encode(content));
            prop_assert!(sealer.open(KIND, "a", sealed.as_bytes()).is_err());
        }
    }
}
