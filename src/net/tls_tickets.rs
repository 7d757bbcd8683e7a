//! Session tickets: a client presents one to make its next TLS handshake cheaper (RFC 5077, RFC 8446
//! section 4.6.1). They are stateless here: a ticket is the session, encrypted with a key of ours.
//!
//! This file owns the keys. They are generated and rotated here, or read from a file that several nodes
//! share, or agreed on by nodes. `server` decides which listener uses which.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::model::{Secret, SharedKeys, TicketKeysFile};
use crate::quota::failure_reports::RecurringTrouble;

/// The lifetime of a ticket, as announced to clients, and as enforced here: rustls does not check its age.
pub const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// How long a generated key encrypts tickets. A leaked key reveals the sessions of this time and of the
/// lifetime before it.
pub const ROTATION_INTERVAL: Duration = Duration::from_secs(6 * 60 * 60);

/// The length of a key's name, which identifies the key at the start of every ticket.
const NAME_LEN: usize = 16;

/// The length of a ticket's creation time, in seconds since 1970, encrypted in front of the session.
const MADE_LEN: usize = 8;

const KEY_LEN: usize = 32;

/// The salt of key derivation: no other use of the same secret derives the same key.
const SALT: &[u8] = b"tidegate session ticket 1";

/// The ticket keys of one listener. A ticket is worthless at another listener, which may demand more of
/// its clients.
pub struct TicketKeys {
    ring: ArcSwap<KeyRing>,
    /// Locked while generated keys are rotated; `None` for keys from a file, which are not rotated here.
    rotating: Option<Mutex<RecurringTrouble>>,
    scope: Box<str>,
}

/// All keys in use.
struct KeyRing {
    keys: Vec<Arc<TicketKey>>,
    /// The index of the key that encrypts new tickets, unless a shared one does.
    current: usize,
    /// Keys that nodes have agreed on.
    shared: Vec<Arc<TicketKey>>,
    /// The index of the shared key that encrypts new tickets, if one does.
    shared_current: Option<usize>,
}

/// One key, derived from a secret for a scope.
struct TicketKey {
    secret: Secret,
    made: SystemTime,
    name: [u8; NAME_LEN],
    aead: RandomizedNonceKey,
}

/// A generated key, for a successor.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandoverTicketKey {
    secret: Secret,
    /// When the key was generated, in seconds since 1970.
    made: u64,
}

/// The system has no random bytes, or the library rejects a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot create a session ticket key")]
pub struct TicketKeysError;

impl From<aws_lc_rs::error::Unspecified> for TicketKeysError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

impl TicketKeys {
    /// Generated keys, rotated over time.
    ///
    /// # Errors
    /// [`TicketKeysError`].
    pub fn own(scope: &str) -> Result<Self, TicketKeysError> {
        Self::own_at(SystemTime::now(), scope)
    }

    fn own_at(now: SystemTime, scope: &str) -> Result<Self, TicketKeysError> {
        let key = TicketKey::random(now, scope)?;
        Ok(Self::with(
            vec![key.into()],
            0,
            Some(Mutex::default()),
            scope,
        ))
    }

    /// Keys that several nodes share, oldest first. The last but one encrypts new tickets, so that a new key
    /// at the end is known to all nodes before any of them uses it. A single key does both.
    ///
    /// # Errors
    /// [`TicketKeysError`], also when there is none.
    pub fn given(secrets: &[Secret], scope: &str) -> Result<Self, TicketKeysError> {
        let now = SystemTime::now();
        let keys: Result<Vec<_>, _> = secrets
            .iter()
            .map(|secret| TicketKey::of(secret.clone(), now, scope).map(Into::into))
            .collect();
        let keys = keys?;
        let last = keys.len().checked_sub(1).ok_or(TicketKeysError)?;
        Ok(Self::with(keys, last.saturating_sub(1), None, scope))
    }

    fn with(
        keys: Vec<Arc<TicketKey>>,
        current: usize,
        rotating: Option<Mutex<RecurringTrouble>>,
        scope: &str,
    ) -> Self {
        Self {
            ring: ArcSwap::from_pointee(KeyRing {
                keys,
                current,
                shared: Vec::new(),
                shared_current: None,
            }),
            rotating,
            scope: scope.into(),
        }
    }

    /// From now on, keys that nodes have agreed on are used beside generated ones, which still decrypt the tickets
    /// that they have encrypted. If none of the shared ones is current, a generated key encrypts new tickets. Keys
    /// from a file are not changed.
    ///
    /// # Errors
    /// [`TicketKeysError`]; the keys stay as they are.
    pub fn share(&self, agreed: &SharedKeys) -> Result<(), TicketKeysError> {
        let Some(rotating) = &self.rotating else {
            return Ok(());
        };
        let _guard = rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring.load();
        let now = SystemTime::now();
        let known = |secret: &Secret| {
            let mut known = ring.shared.iter();
            known.find(|key| key.secret == *secret).map(Arc::clone)
        };
        let shared: Result<Vec<_>, _> = agreed
            .secrets
            .iter()
            .map(|secret| match known(secret) {
                Some(key) => Ok(key),
                None => TicketKey::of(secret.clone(), now, &self.scope).map(Arc::new),
            })
            .collect();
        let shared = shared?;
        self.ring.store(Arc::new(KeyRing {
            keys: ring.keys.clone(),
            current: ring.current,
            shared_current: agreed.current.filter(|at| *at < shared.len()),
            shared,
        }));
        Ok(())
    }

    /// Whether the keys were generated here; a reload keeps such keys.
    pub fn are_own(&self) -> bool {
        self.rotating.is_some()
    }

    /// Generated keys that a predecessor has handed over; rotation continues.
    ///
    /// # Errors
    /// [`TicketKeysError`], also when there is none.
    pub fn taken_over(
        handed: Vec<HandoverTicketKey>,
        scope: &str,
    ) -> Result<Self, TicketKeysError> {
        let keys: Result<Vec<_>, _> = handed
            .into_iter()
            .map(|key| {
                let made = SystemTime::UNIX_EPOCH + Duration::from_secs(key.made);
                TicketKey::of(key.secret, made, scope).map(Arc::new)
            })
            .collect();
        let keys = keys?;
        let last = keys.len().checked_sub(1).ok_or(TicketKeysError)?;
        Ok(Self::with(keys, last, Some(Mutex::default()), scope))
    }

    /// The generated keys, for a successor, oldest first. Keys from a file are not handed over: the successor
    /// reads the file itself.
    pub fn hand_over(&self) -> Vec<HandoverTicketKey> {
        let ring = self.ring.load();
        let own = ring.keys.iter().filter(|_| self.are_own());
        own.map(|key| HandoverTicketKey {
            secret: key.secret.clone(),
            made: seconds(key.made),
        })
        .collect()
    }

    fn encrypt_at(&self, now: SystemTime, plain: &[u8]) -> Option<Vec<u8>> {
        self.rotate(now);
        let ring = self.ring.load();
        let made = seconds(now).to_be_bytes();
        ring.current()?.seal(&[&made, plain].concat())
    }

    fn decrypt_at(&self, now: SystemTime, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, sealed) = ticket.split_first_chunk::<NAME_LEN>()?;
        let ring = self.ring.load();
        let mut keys = ring.shared.iter().chain(&ring.keys);
        let key = keys.find(|key| key.name == *name)?;
        let mut plain = key.open(sealed)?;
        let made = u64::from_be_bytes(*plain.first_chunk::<MADE_LEN>()?);
        // A ticket from the future was made by a node whose clock is ahead.
        let age = seconds(now).saturating_sub(made);
        (age <= LIFETIME.as_secs()).then(|| plain.split_off(MADE_LEN))
    }

    /// Generates a new key when it is due, and drops keys whose tickets have all expired. The handshake that
    /// needs a ticket does this, so that nothing runs without handshakes. Other handshakes wait for it: the
    /// key of a listener that was idle for long may be too old to be used.
    fn rotate(&self, now: SystemTime) {
        let is_due = |ring: &KeyRing| {
            let current = ring.keys.get(ring.current);
            // No ticket is encrypted with a generated key while there is a shared one.
            ring.shared_current.is_none()
                && current.is_none_or(|key| key.age(now) >= ROTATION_INTERVAL)
        };
        let Some(rotating) = &self.rotating else {
            return;
        };
        if !is_due(&self.ring.load()) {
            return;
        }
        // Another handshake may have rotated while this one waited for the lock.
        let mut trouble = rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring.load();
        if !is_due(&ring) {
            return;
        }
        let Ok(new) = TicketKey::random(now, &self.scope) else {
            // Each handshake tries it again.
            if trouble.is_there(Instant::now()) {
                tracing::error!("cannot create a new session ticket key; the old one stays in use");
            }
            return;
        };
        let living = |key: &&Arc<TicketKey>| key.age(now) <= ROTATION_INTERVAL + LIFETIME;
        let mut keys: Vec<_> = ring.keys.iter().filter(living).cloned().collect();
        keys.push(new.into());
        self.ring.store(Arc::new(KeyRing {
            current: keys.len() - 1,
            keys,
            shared: ring.shared.clone(),
            shared_current: ring.shared_current,
        }));
    }
}

impl KeyRing {
    /// The key that encrypts new tickets.
    fn current(&self) -> Option<&Arc<TicketKey>> {
        match self.shared_current {
            Some(at) => self.shared.get(at),
            None => self.keys.get(self.current),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(SystemTime::now(), plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(SystemTime::now(), ticket)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("scope", &self.scope)
            .field("keys", &self.ring.load().keys.len())
            .finish_non_exhaustive()
    }
}

impl TicketKey {
    fn random(now: SystemTime, scope: &str) -> Result<Self, TicketKeysError> {
        let mut secret = Zeroizing::new(vec![0; TicketKeysFile::LONG]);
        rand::fill(&mut secret)?;
        Self::of(Secret::new(secret), now, scope)
    }

    fn of(secret: Secret, made: SystemTime, scope: &str) -> Result<Self, TicketKeysError> {
        let mut derived = Zeroizing::new([0; NAME_LEN + KEY_LEN]);
        Salt::new(HKDF_SHA256, SALT)
            .extract(secret.bytes())
            .expand(&[scope.as_bytes()], DerivedLength)?
            .fill(&mut *derived)?;
        let (name, key) = derived.split_first_chunk().ok_or(TicketKeysError)?;
        Ok(Self {
            secret,
            made,
            name: *name,
            // Every node draws its own random nonces, for a key that may be in use for long: this cipher
            // (RFC 8452) tolerates a repeated nonce.
            aead: RandomizedNonceKey::new(&AES_256_GCM_SIV, key)?,
        })
    }

    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.made).unwrap_or_default()
    }

    /// Encrypts: key name, nonce, ciphertext. The name is authenticated as well.
    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self
            .aead
            .seal_in_place_append_tag(Aad::from(self.name), &mut sealed)
            .ok()?;
        Some([&self.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .aead
            .open_in_place(Nonce::from(nonce), Aad::from(self.name), &mut sealed)
            .ok()?;
        Some(plain.to_vec())
    }
}

/// The length of derived key material.
struct DerivedLength;

impl KeyType for DerivedLength {
    fn len(&self) -> usize {
        NAME_LEN + KEY_LEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    impl TicketKeys {
        fn count(&self) -> usize {
            self.ring.load().keys.len()
        }
    }

    fn secret(fill: u8) -> Secret {
        Secret::new(Zeroizing::new(vec![fill; TicketKeysFile::LONG]))
    }

    fn agreed(fills: &[u8], current: Option<usize>) -> SharedKeys {
        let secrets = fills.iter().copied().map(secret).collect();
        SharedKeys { secrets, current }
    }

    fn given(fills: &[u8], scope: &str) -> TicketKeys {
        let secrets: Vec<_> = fills.iter().copied().map(secret).collect();
        TicketKeys::given(&secrets, scope).unwrap()
    }

    /// The format must not change: the next version resumes what this one has issued. This ticket was made by
    /// another program, as 0.1.0 makes them.
    #[test]
    fn the_format_is_stable() {
        let ticket =
            "JyYpLGRJKx+i6Ipva49vaQABAgMEBQYHCAkKCz9u+OCJ+WCub8i9swlhP+nvDDr+FHc+VMh+7A8u3z4=";
        let ticket = STANDARD.decode(ticket).unwrap();
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let read = |now| given(&[1], "public").decrypt_at(now, &ticket);
        assert_eq!(read(made).as_deref(), Some(&b"session"[..]));
        assert_eq!(read(made + 13 * HOUR), None);
    }

    #[test]
    fn a_ticket_is_good_for_its_lifetime_and_no_longer() {
        let start = SystemTime::now();
        for keys in [
            TicketKeys::own_at(start, "public").unwrap(),
            given(&[1, 2, 3], "public"),
        ] {
            // Made at the last moment of its key.
            let ticket = keys.encrypt_at(start + 5 * HOUR, b"session").unwrap();
            for hours in [5, 6, 12, 17] {
                let now = start + hours * HOUR;
                keys.encrypt_at(now, b"another").unwrap();
                let opened = keys.decrypt_at(now, &ticket);
                assert_eq!(opened.as_deref(), Some(&b"session"[..]), "{hours} h");
            }
            assert_eq!(keys.decrypt_at(start + 18 * HOUR, &ticket), None);
            keys.encrypt_at(start + 19 * HOUR, b"another").unwrap();
            assert!(keys.count() <= 4);
        }
    }

    #[test]
    fn clients_that_wake_an_idle_listener_get_tickets_that_open() {
        let start = SystemTime::now();
        for _ in 0..50 {
            let keys = TicketKeys::own_at(start, "public").unwrap();
            let now = start + 100 * HOUR;
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        barrier.wait();
                        let ticket = keys.encrypt_at(now, b"session").unwrap();
                        assert!(keys.decrypt_at(now, &ticket).is_some());
                    });
                }
            });
            assert_eq!(keys.count(), 1, "it was one rotation");
        }
    }

    #[test]
    fn a_quiet_listener_rotates_when_it_wakes_up() {
        let start = SystemTime::now();
        let keys = TicketKeys::own_at(start, "public").unwrap();
        let old = keys.encrypt_at(start, b"session").unwrap();
        let new = keys.encrypt_at(start + 100 * HOUR, b"session").unwrap();
        assert_ne!(old[..NAME_LEN], new[..NAME_LEN]);
        assert_eq!(keys.count(), 1);
    }

    #[test]
    fn what_is_handed_over_opens_tickets_elsewhere_and_is_rotated_on() {
        let start = SystemTime::now() - 5 * HOUR;
        let keys = TicketKeys::own_at(start, "public").unwrap();
        let ticket = keys.encrypt_at(start, b"session").unwrap();
        let other = TicketKeys::taken_over(keys.hand_over(), "public").unwrap();
        let opened = |keys: &TicketKeys, now, ticket: &[u8]| keys.decrypt_at(now, ticket);
        assert_eq!(opened(&other, start, &ticket).unwrap(), b"session");
        let back = other.encrypt_at(start, b"more").unwrap();
        assert_eq!(opened(&keys, start, &back).unwrap(), b"more");
        // Its age goes with it.
        other.encrypt_at(start + 6 * HOUR, b"later").unwrap();
        assert_eq!(other.count(), 2);
        assert!(opened(&other, start + 6 * HOUR, &ticket).is_some());
        assert!(given(&[1, 2], "public").hand_over().is_empty());
    }

    #[test]
    fn nodes_that_agree_on_keys_resume_the_sessions_of_each_other() {
        let [a, b] = [0; 2].map(|_| TicketKeys::own("public").unwrap());
        let before = a.encrypt(b"before").unwrap();
        assert_eq!(b.decrypt(&before), None);
        // Known to both, and used by neither.
        for node in [&a, &b] {
            node.share(&agreed(&[1], None)).unwrap();
            let own = node.encrypt(b"own").unwrap();
            assert!(node.decrypt(&own).is_some());
        }
        // One learns of the promotion earlier.
        a.share(&agreed(&[1], Some(0))).unwrap();
        let shared = a.encrypt(b"shared").unwrap();
        assert_eq!(b.decrypt(&shared).as_deref(), Some(&b"shared"[..]));
        b.share(&agreed(&[1, 2], Some(0))).unwrap();
        let back = b.encrypt(b"back").unwrap();
        assert_eq!(a.decrypt(&back).as_deref(), Some(&b"back"[..]));
        b.share(&agreed(&[1, 2], Some(1))).unwrap();
        assert_eq!(a.decrypt(&b.encrypt(b"next").unwrap()), None);
        a.share(&agreed(&[2], Some(0))).unwrap();
        assert!(a.decrypt(&b.encrypt(b"next").unwrap()).is_some());
        assert_eq!(a.decrypt(&shared), None, "a key that was dropped");
        // What was issued before the nodes agreed is good for as long as ever.
        assert!(a.decrypt(&before).is_some());
        // What is handed over are the generated keys; the agreement has the others.
        let other = TicketKeys::taken_over(a.hand_over(), "public").unwrap();
        assert!(other.decrypt(&before).is_some());
        let late = SystemTime::now() + 100 * HOUR;
        assert_eq!(
            a.encrypt_at(late, b"late").unwrap()[..NAME_LEN],
            b.encrypt(b"").unwrap()[..NAME_LEN]
        );
        // No longer shared: a generated key, which is not old.
        a.share(&agreed(&[], None)).unwrap();
        let own = a.encrypt_at(late, b"own").unwrap();
        assert_eq!(b.decrypt(&own), None);
        assert!(a.decrypt_at(late, &own).is_some());
        let file = given(&[1, 2], "public");
        file.share(&agreed(&[7], Some(0))).unwrap();
        assert!(
            given(&[1], "public")
                .decrypt(&file.encrypt(b"x").unwrap())
                .is_some()
        );
    }

    #[test]
    fn another_scope_is_another_key() {
        let ticket = given(&[1], "public").encrypt(b"session").unwrap();
        assert_eq!(given(&[1], "internal").decrypt(&ticket), None);
        assert!(given(&[1], "public").decrypt(&ticket).is_some());
    }

    #[test]
    fn a_fleet_rotates_without_losing_a_session() {
        // Nodes take the new file one after the other: at each step old and new have to agree.
        let steps: [&[u8]; 5] = [&[1], &[1, 2], &[1, 2, 3], &[2, 3, 4], &[3, 4, 5]];
        for pair in steps.windows(2) {
            let (before, after) = (given(pair[0], "public"), given(pair[1], "public"));
            for (from, to) in [(&before, &after), (&after, &before)] {
                let ticket = from.encrypt(b"session").unwrap();
                assert!(to.decrypt(&ticket).is_some(), "{pair:?}");
            }
        }
        let ticket = given(&[1], "public").encrypt(b"session").unwrap();
        assert_eq!(given(&[2, 3], "public").decrypt(&ticket), None);
    }

    #[test]
    fn nothing_shows_a_secret() {
        let keys = given(&[0xab], "public");
        let own = TicketKeys::taken_over(
            vec![HandoverTicketKey {
                secret: secret(0xab),
                made: 0,
            }],
            "public",
        );
        let shown = format!("{keys:?} {own:?} {:?}", secret(0xab));
        assert!(
            !shown.contains("171") && !shown.to_lowercase().contains("abab"),
            "{shown}"
        );
        assert!(TicketKeys::given(&[], "public").is_err());
    }

    proptest! {
        #[test]
        fn only_what_was_sealed_opens(
            plain in prop::collection::vec(any::<u8>(), 0..600),
            at in any::<prop::sample::Index>(),
            bit in 0..8u8,
        ) {
            let keys = given(&[7], "public");
            let ticket = keys.encrypt(&plain).unwrap();
            prop_assert_eq!(keys.decrypt(&ticket), Some(plain));
            let mut forged = ticket.clone();
            let at = at.index(ticket.len());
            forged[at] ^= 1 << bit;
            prop_assert_eq!(keys.decrypt(&forged), None);
            prop_assert_eq!(keys.decrypt(&ticket[..at]), None);
        }

        #[test]
        fn any_bytes_are_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(given(&[7], "public").decrypt(&bytes), None);
        }
    }
}
