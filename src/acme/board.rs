//! The challenges that are open anywhere: those of this process, and those of other nodes as far as their
//! authorities are known here. Listeners answer all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::sign::CertifiedKey;
use tokio::sync::Notify;

use super::challenge::OpenChallenge;
use crate::config::model::ChallengeKind;
use crate::net::managed_certificates::ManagedCertificates;

/// The challenges that are open.
#[derive(Debug)]
pub(super) struct ChallengeBoard {
    managed: Arc<ManagedCertificates>,
    state: Mutex<BoardState>,
    /// Names have become free.
    freed: Notify,
}

#[derive(Debug, Default)]
struct BoardState {
    /// By authority and by the name of the item in the store.
    entries: BTreeMap<(Arc<str>, Box<str>), BoardEntry>,
    /// The names whose certificates this process has validated at the moment.
    claimed: BTreeSet<Box<str>>,
}

struct BoardEntry {
    challenge: OpenChallenge,
    certificate: Option<Arc<CertifiedKey>>,
    is_own: bool,
}

impl std::fmt::Debug for BoardEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoardEntry")
            .field("is_own", &self.is_own)
            .finish_non_exhaustive()
    }
}

/// Names that no other order of this process has validated meanwhile: there is one answer per name to tls-alpn-01.
#[derive(Debug)]
pub(super) struct NameClaim {
    board: Arc<ChallengeBoard>,
    names: Vec<Box<str>>,
}

impl Drop for NameClaim {
    fn drop(&mut self) {
        let mut state = self.board.state();
        for name in &self.names {
            state.claimed.remove(name);
        }
        drop(state);
        self.board.freed.notify_waiters();
    }
}

impl ChallengeBoard {
    /// Listeners answer through `managed`.
    pub(super) fn new(managed: Arc<ManagedCertificates>) -> Self {
        Self {
            managed,
            state: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Waits until none of these names is being validated, and claims them.
    pub(super) async fn claim(self: &Arc<Self>, names: Vec<Box<str>>) -> NameClaim {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // What is freed from here on is noticed.
            freed.as_mut().enable();
            {
                let mut state = self.state();
                if !names.iter().any(|name| state.claimed.contains(name)) {
                    state.claimed.extend(names.iter().cloned());
                    return NameClaim {
                        board: Arc::clone(self),
                        names,
                    };
                }
            }
            freed.await;
        }
    }

    /// Answers a challenge of this process.
    ///
    /// # Errors
    /// Why its certificate cannot be made.
    pub(super) fn open(
        &self,
        authority: &Arc<str>,
        item: &str,
        challenge: OpenChallenge,
    ) -> Result<(), String> {
        let entry = BoardEntry::new(challenge, true)?;
        let mut state = self.state();
        state
            .entries
            .insert((Arc::clone(authority), item.into()), entry);
        self.publish(&state);
        Ok(())
    }

    /// Answers it no longer.
    pub(super) fn close(&self, authority: &Arc<str>, item: &str) {
        let mut state = self.state();
        state.entries.remove(&(Arc::clone(authority), item.into()));
        self.publish(&state);
    }

    /// The challenges of this process whose items begin like this.
    pub(super) fn own(&self, authority: &Arc<str>, prefix: &str) -> Vec<(Box<str>, OpenChallenge)> {
        let state = self.state();
        let own = state.entries.iter().filter(|((of, item), entry)| {
            of == authority && entry.is_own && item.starts_with(prefix)
        });
        own.map(|((_, item), entry)| (item.clone(), entry.challenge.clone()))
            .collect()
    }

    /// From now on, these are the challenges of other nodes with this authority.
    pub(super) fn replace_others(
        &self,
        authority: &Arc<str>,
        others: impl IntoIterator<Item = (Box<str>, OpenChallenge)>,
    ) {
        let mut state = self.state();
        let mut before: BTreeMap<(Arc<str>, Box<str>), BoardEntry> = BTreeMap::new();
        let old = std::mem::take(&mut state.entries);
        for (key, entry) in old {
            match key.0 == *authority && !entry.is_own {
                true => before.insert(key, entry),
                false => state.entries.insert(key, entry),
            };
        }
        let (had, mut has_changed) = (before.len(), false);
        let mut kept = 0;
        for (item, challenge) in others {
            let key = (Arc::clone(authority), item);
            if state.entries.contains_key(&key) {
                continue;
            }
            // The certificate is not made again each second.
            let known = before
                .remove(&key)
                .filter(|entry| entry.challenge == challenge);
            let entry = match known {
                Some(entry) => {
                    kept += 1;
                    entry
                }
                None => match BoardEntry::new(challenge, false) {
                    Ok(entry) => entry,
                    Err(_) => continue,
                },
            };
            has_changed |= state.entries.insert(key, entry).is_some();
            has_changed |= kept == 0;
        }
        let now = state
            .entries
            .iter()
            .filter(|((of, _), entry)| of == authority && !entry.is_own)
            .count();
        if has_changed || kept != had || kept != now {
            self.publish(&state);
        }
    }

    fn publish(&self, state: &BoardState) {
        let mut http: HashMap<Box<str>, Arc<str>> = HashMap::new();
        let mut tls: HashMap<Box<str>, Arc<CertifiedKey>> = HashMap::new();
        // This process's own come last: they are the newer ones.
        let (own, others): (Vec<_>, Vec<_>) =
            state.entries.values().partition(|entry| entry.is_own);
        for entry in others.into_iter().chain(own) {
            let challenge = &entry.challenge;
            match (challenge.kind(), &entry.certificate) {
                (Some(ChallengeKind::Http01), _) => {
                    let answer = challenge.key_authorization.as_str();
                    http.insert(challenge.token.as_str().into(), answer.into());
                }
                (Some(ChallengeKind::TlsAlpn01), Some(certificate)) => {
                    tls.insert(challenge.name.as_str().into(), Arc::clone(certificate));
                }
                _ => {}
            }
        }
        self.managed.challenges.replace(http, tls);
    }

    fn state(&self) -> MutexGuard<'_, BoardState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BoardEntry {
    fn new(challenge: OpenChallenge, is_own: bool) -> Result<Self, String> {
        let certificate = match challenge.kind() {
            Some(ChallengeKind::TlsAlpn01) => Some(challenge.certificate()?),
            _ => None,
        };
        Ok(Self {
            challenge,
            certificate,
            is_own,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/.well-known/acme-challenge/";

    fn challenge(kind: ChallengeKind, token: &str) -> OpenChallenge {
        OpenChallenge::new(kind, format!("{token}.example.com"), token.into(), "answer")
    }

    fn board() -> (Arc<ManagedCertificates>, Arc<ChallengeBoard>) {
        let managed = Arc::new(ManagedCertificates::default());
        (Arc::clone(&managed), Arc::new(ChallengeBoard::new(managed)))
    }

    #[test]
    fn own_and_other_challenges_are_answered_while_they_are_open() {
        let (managed, board) = board();
        let (first, second): (Arc<str>, Arc<str>) = ("first".into(), "second".into());
        let answers = |token: &str| {
            managed
                .challenges
                .http_answer(&format!("{PATH}{token}"))
                .is_some()
        };
        let tls = |name: &str| {
            managed
                .challenges
                .tls_answer(&format!("{name}.example.com"))
        };
        board
            .open(&first, "x@1", challenge(ChallengeKind::Http01, "own"))
            .unwrap();
        board.replace_others(
            &first,
            [("y@1".into(), challenge(ChallengeKind::Http01, "other"))],
        );
        board.replace_others(
            &second,
            [("z@1".into(), challenge(ChallengeKind::TlsAlpn01, "tls"))],
        );
        assert!(answers("own") && answers("other") && tls("tls").is_some());
        assert!(!answers("tls") && !answers("nobody"));
        let before = tls("tls").unwrap();
        // What has not changed is left alone.
        board.replace_others(
            &second,
            [("z@1".into(), challenge(ChallengeKind::TlsAlpn01, "tls"))],
        );
        assert!(Arc::ptr_eq(&before, &tls("tls").unwrap()));
        board.replace_others(
            &second,
            [("z@1".into(), challenge(ChallengeKind::TlsAlpn01, "new"))],
        );
        assert!(tls("tls").is_none() && tls("new").is_some());
        board.replace_others(
            &first,
            [("x@1".into(), challenge(ChallengeKind::Http01, "own"))],
        );
        assert!(answers("own") && !answers("other") && tls("new").is_some());
        assert_eq!(board.own(&first, "x@").len(), 1);
        assert_eq!(
            board.own(&first, "y@").len() + board.own(&second, "x@").len(),
            0
        );
        board.close(&first, "x@1");
        board.replace_others(&second, []);
        assert!(!answers("own") && tls("new").is_none());
    }

    #[tokio::test]
    async fn a_name_is_validated_once_at_a_time() {
        let (_, board) = board();
        let first = board.claim(vec!["a".into(), "b".into()]).await;
        let mut second = Box::pin(board.claim(vec!["b".into(), "c".into()]));
        assert!(futures_util::poll!(&mut second).is_pending());
        // It holds nothing while it waits.
        drop(board.claim(vec!["c".into()]).await);
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
    }
}
