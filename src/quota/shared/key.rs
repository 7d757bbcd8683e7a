//! The keys of shared limits: as hashes, under a secret of the process and its successors.
//!
//! A hash takes the same memory however long the key is, and no client can make two keys that collide.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use crate::config::model::Secret;
use crate::quota::ClientKey;

/// The longest key that is shown as it is, in bytes.
const MAX_LABEL: usize = 64;

/// What a request is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySource<'a> {
    /// A part of the request.
    Part(&'a [u8]),
    /// A part of the request that may be a credential: it is never shown.
    Credential(&'a [u8]),
    /// The client's address, or its IPv6 /64.
    Address(IpAddr),
    /// The client's address is not known: all such clients count together.
    Unknown,
}

/// The hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u128);

/// A key: its hash, and what it was made of.
#[derive(Debug, Clone, Copy)]
pub struct LimitKey<'a> {
    /// The hash.
    pub id: KeyId,
    source: KeySource<'a>,
}

/// Hashes keys.
#[derive(Debug, Clone)]
pub struct KeyHasher {
    hmac: hmac::Key,
    secret: Secret,
}

impl KeyHasher {
    /// Hashes with this secret.
    pub(super) fn new(secret: Secret) -> Self {
        Self {
            hmac: hmac::Key::new(hmac::HMAC_SHA256, secret.bytes()),
            secret,
        }
    }

    /// The secret, for a successor.
    pub(super) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The key of a request.
    pub fn key<'a>(&self, source: KeySource<'a>) -> LimitKey<'a> {
        let mut context = hmac::Context::with_key(&self.hmac);
        // The kinds differ: a cookie must not stand for somebody's address.
        match source {
            KeySource::Part(bytes) | KeySource::Credential(bytes) => {
                context.update(b"p");
                context.update(bytes);
            }
            KeySource::Address(address) => match ClientKey::of(address) {
                ClientKey::V4(bits) => {
                    context.update(b"4");
                    context.update(&bits.to_be_bytes());
                }
                ClientKey::V6(bits) => {
                    context.update(b"6");
                    context.update(&bits.to_be_bytes());
                }
            },
            KeySource::Unknown => context.update(b"u"),
        }
        let tag = context.sign();
        let hash = tag.as_ref().first_chunk().copied();
        LimitKey {
            id: KeyId(hash.map_or(0, u128::from_be_bytes)),
            source,
        }
    }
}

impl Default for KeyHasher {
    fn default() -> Self {
        let mut secret = Zeroizing::new(vec![0; 32]);
        // The generator fails only before the system has any randomness; then keys are still distinguished.
        let _ = aws_lc_rs::rand::fill(&mut secret);
        Self::new(Secret::new(secret))
    }
}

impl LimitKey<'_> {
    /// The key as operators see it; `None` if only its hash is to be shown.
    pub(super) fn label(&self) -> Option<Box<str>> {
        match self.source {
            KeySource::Credential(_) => None,
            KeySource::Part(bytes) => {
                let text = str::from_utf8(bytes).ok()?;
                let is_plain = text.len() <= MAX_LABEL && !text.contains(char::is_control);
                is_plain.then(|| text.into())
            }
            KeySource::Address(address) => Some(match ClientKey::of(address) {
                ClientKey::V4(_) => address.to_canonical().to_string().into(),
                ClientKey::V6(bits) => {
                    let network = Ipv6Addr::from_bits(u128::from(bits) << 64);
                    format!("{network}/64").into()
                }
            }),
            KeySource::Unknown => Some("unknown address".into()),
        }
    }
}

impl KeyId {
    /// The count that further keys share when a table is full.
    pub const REST: Self = Self(0);

    pub(super) fn shard(self, shards: usize) -> usize {
        self.0 as usize % shards
    }

    /// The hash as it is handed over.
    pub fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }

    /// Reads what [`KeyId::to_hex`] has written.
    pub fn from_hex(text: &str) -> Option<Self> {
        let is_hash = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = is_hash.then(|| u128::from_str_radix(text, 16).ok());
        bits.flatten().map(Self)
    }
}

/// The hash as operators see it: its beginning.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::REST => f.write_str("(all other keys)"),
            Self(bits) => write!(f, "#{:08x}", bits >> 96),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(source: KeySource<'_>) -> Option<String> {
        KeyHasher::default().key(source).label().map(Into::into)
    }

    #[test]
    fn a_credential_is_never_shown_and_long_keys_are_not() {
        assert_eq!(label(KeySource::Part(b"alice")).as_deref(), Some("alice"));
        assert_eq!(label(KeySource::Credential(b"alice")), None);
        assert_eq!(label(KeySource::Part(&[b'a'; 65])), None);
        assert_eq!(label(KeySource::Part(b"a\nb")), None);
        assert_eq!(label(KeySource::Part(b"\xff")), None);
        let address = |text: &str| label(KeySource::Address(text.parse().unwrap()));
        assert_eq!(address("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        let network = address("2001:db8:0:1:2::3");
        assert_eq!(network.as_deref(), Some("2001:db8:0:1::/64"));
    }

    #[test]
    fn keys_of_different_kinds_differ_and_depend_on_the_secret() {
        let hasher = KeyHasher::default();
        let same = KeyHasher::new(hasher.secret().clone());
        let address = |text: &str| KeySource::Address(text.parse().unwrap());
        let sources = [
            KeySource::Part(b"\xc0\x00\x02\x01"),
            KeySource::Part(b"4\xc0\x00\x02\x01"),
            KeySource::Part(b""),
            address("192.0.2.1"),
            address("2001:db8::1"),
            KeySource::Unknown,
        ];
        let mut ids: Vec<KeyId> = sources.iter().map(|it| hasher.key(*it).id).collect();
        for (source, id) in sources.iter().zip(&ids) {
            assert_eq!(same.key(*source).id, *id);
            assert_ne!(KeyHasher::default().key(*source).id, *id);
            assert_eq!(KeyId::from_hex(&id.to_hex()), Some(*id));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), sources.len());
        assert_eq!(
            hasher.key(address("2001:db8::ffff")).id,
            hasher.key(address("2001:db8::1")).id
        );
        assert_eq!(KeyId::from_hex("00"), None);
    }
}
