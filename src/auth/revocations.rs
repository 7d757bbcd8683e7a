//! Subjects whose credentials were revoked: no credential that was issued before is accepted any more.
//!
//! Subjects are kept as keyed hashes, so that neither a dump of the memory nor the state of an upgrade lists who
//! was revoked. The table is bounded in number and in time. It outlives reloads and upgrades, but not a crash.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::model::Secret;

/// The most subjects that are revoked at a time. One takes 16 bytes.
pub const MAX_REVOKED_SUBJECTS: usize = 65_536;

const KEY_BYTES: usize = 32;

/// A subject of an authentication, as a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SubjectTag(NonZeroU64);

impl From<NonZeroU64> for SubjectTag {
    fn from(hash: NonZeroU64) -> Self {
        Self(hash)
    }
}

impl SubjectTag {
    /// The hash.
    pub fn get(self) -> NonZeroU64 {
        self.0
    }
}

/// Seconds since 1970; enough until 2106.
pub type UnixSeconds = u32;

/// The seconds since 1970 at this time; the nearest that there are, if it is outside of them.
pub fn unix_seconds(time: SystemTime) -> UnixSeconds {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds::try_from(since.as_secs()).unwrap_or(UnixSeconds::MAX)
}

/// One revoked subject.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SubjectRevocation {
    /// When it was revoked.
    at: UnixSeconds,
    /// When it is forgotten.
    until: UnixSeconds,
}

/// The revoked subjects of the process.
pub struct RevokedSubjects {
    key: Mutex<SubjectKey>,
    hash: ArcSwap<hmac::Key>,
    subjects: ArcSwap<HashMap<SubjectTag, SubjectRevocation>>,
}

/// The key of the hashes, for the successor of this process.
type SubjectKey = Secret;

/// Revoked subjects, for the successor of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct RevocationsHandover {
    key: SubjectKey,
    subjects: Vec<(SubjectTag, SubjectRevocation)>,
}

/// As many subjects are revoked as the table has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_REVOKED_SUBJECTS} subjects are revoked already")]
pub struct RevocationsFull;

impl std::fmt::Debug for RevokedSubjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevokedSubjects")
            .field("subjects", &self.len())
            .finish_non_exhaustive()
    }
}

impl Default for RevokedSubjects {
    fn default() -> Self {
        let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
        // The operating system has random bytes once it is up; a hash with a known key would still tell subjects
        // apart.
        let _ = rand::fill(&mut key);
        Self {
            hash: ArcSwap::from_pointee(hmac::Key::new(hmac::HMAC_SHA256, &key)),
            key: Mutex::new(Secret::new(key)),
            subjects: ArcSwap::default(),
        }
    }
}

impl RevokedSubjects {
    /// The hash of a subject of the authentication `auth`.
    pub fn tag(&self, auth: &str, subject: &str) -> SubjectTag {
        let mut hash = hmac::Context::with_key(&self.hash.load());
        hash.update(&(auth.len() as u64).to_le_bytes());
        hash.update(auth.as_bytes());
        hash.update(subject.as_bytes());
        let digest = hash.sign();
        let bytes = digest.as_ref().first_chunk().copied().unwrap_or_default();
        SubjectTag(NonZeroU64::new(u64::from_le_bytes(bytes)).unwrap_or(NonZeroU64::MIN))
    }

    /// The number of subjects that are revoked.
    pub fn len(&self) -> usize {
        self.subjects.load().len()
    }

    /// Whether no subject is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Refuses from now on, and for `keep`, the credentials of these subjects that were issued until now.
    ///
    /// # Errors
    /// [`RevocationsFull`]; then none of them is revoked.
    pub fn revoke(
        &self,
        tags: &[SubjectTag],
        now: SystemTime,
        keep: Duration,
    ) -> Result<(), RevocationsFull> {
        let at = unix_seconds(now);
        let until = unix_seconds(now.checked_add(keep).unwrap_or(now));
        let _writing = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let mut subjects = HashMap::clone(&self.subjects.load());
        subjects.retain(|_, subject| subject.until > at);
        for tag in tags {
            let subject = subjects
                .entry(*tag)
                .or_insert(SubjectRevocation { at, until });
            subject.at = subject.at.max(at);
            subject.until = subject.until.max(until);
        }
        if subjects.len() > MAX_REVOKED_SUBJECTS {
            return Err(RevocationsFull);
        }
        self.subjects.store(Arc::new(subjects));
        Ok(())
    }

    /// Whether a credential of this subject was revoked. One that does not say when it was issued counts as older
    /// than any revocation.
    pub fn is_revoked(&self, tag: SubjectTag, issued: Option<SystemTime>, now: SystemTime) -> bool {
        let subjects = self.subjects.load();
        let Some(subject) = subjects.get(&tag) else {
            return false;
        };
        // In the same second nothing says which came first.
        subject.until > unix_seconds(now)
            && issued.is_none_or(|issued| unix_seconds(issued) <= subject.at)
    }

    /// What the successor of this process needs.
    pub fn hand_over(&self) -> RevocationsHandover {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let subjects = self.subjects.load();
        RevocationsHandover {
            key: key.clone(),
            subjects: subjects.iter().map(|(tag, it)| (*tag, *it)).collect(),
        }
    }

    /// Goes on with those of the predecessor. Nothing was tagged yet.
    pub fn take_over(&self, handover: RevocationsHandover) {
        let known = handover.subjects.into_iter().take(MAX_REVOKED_SUBJECTS);
        let mut key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = hmac::Key::new(hmac::HMAC_SHA256, handover.key.bytes());
        self.hash.store(Arc::new(hash));
        self.subjects.store(Arc::new(known.collect()));
        *key = handover.key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_subject_is_one_of_one_authentication() {
        let revocations = RevokedSubjects::default();
        let tag = |auth, subject| revocations.tag(auth, subject);
        assert_eq!(tag("sso", "me"), tag("sso", "me"));
        for (auth, subject) in [
            ("sso", "you"),
            ("players", "me"),
            ("ss", "ome"),
            ("", "ssome"),
        ] {
            assert_ne!(tag("sso", "me"), tag(auth, subject), "{auth} {subject}");
        }
        assert_ne!(
            tag("sso", "me"),
            RevokedSubjects::default().tag("sso", "me")
        );
    }

    #[test]
    fn credentials_from_before_are_refused_until_they_are_forgotten() {
        let revocations = RevokedSubjects::default();
        let (me, you) = (revocations.tag("sso", "me"), revocations.tag("sso", "you"));
        revocations.revoke(&[me], at(1000), HOUR).unwrap();
        for (issued, now, expected) in [
            (Some(999), 1001, true),
            (Some(1000), 1001, true),
            (Some(1001), 1001, false),
            (None, 1001, true),
            (None, 4599, true),
            (None, 4600, false),
        ] {
            let issued = issued.map(at);
            assert_eq!(
                revocations.is_revoked(me, issued, at(now)),
                expected,
                "{issued:?} {now}"
            );
            assert!(!revocations.is_revoked(you, issued, at(now)));
        }
        // Again, and for less time: the longer one stands.
        revocations.revoke(&[me], at(1100), HOUR / 60).unwrap();
        assert!(revocations.is_revoked(me, Some(at(1100)), at(4599)));
        revocations.revoke(&[you], at(9000), HOUR).unwrap();
        assert_eq!(revocations.len(), 1, "those of long ago are forgotten");
    }

    #[test]
    fn a_full_table_refuses_instead_of_forgetting() {
        let revocations = RevokedSubjects::default();
        let tags: Vec<SubjectTag> = (0..=MAX_REVOKED_SUBJECTS)
            .map(|number| revocations.tag("sso", &number.to_string()))
            .collect();
        let (last, others) = tags.split_last().unwrap();
        revocations.revoke(others, at(1000), HOUR).unwrap();
        let full = revocations.revoke(&[*last], at(1001), HOUR);
        assert_eq!(full, Err(RevocationsFull));
        assert!(revocations.is_revoked(others[0], None, at(1002)));
        assert!(!revocations.is_revoked(*last, None, at(1002)));
        revocations.revoke(&[*last], at(9000), HOUR).unwrap();
    }

    #[test]
    fn the_successor_knows_them_and_no_name() {
        let revocations = RevokedSubjects::default();
        let me = revocations.tag("sso", "me-of-all-people");
        revocations.revoke(&[me], at(1000), HOUR).unwrap();
        let text = serde_json::to_string(&revocations.hand_over()).unwrap();
        assert!(!text.contains("me-of-all-people"));
        let next = RevokedSubjects::default();
        next.take_over(serde_json::from_str(&text).unwrap());
        assert_eq!(next.tag("sso", "me-of-all-people"), me);
        assert!(next.is_revoked(me, None, at(1001)));
    }
}
