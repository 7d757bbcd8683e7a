//! Looks into the folder once a second for what other nodes have put there: challenges to answer, and
//! certificates to serve. Notifications of the operating system do not tell what other nodes do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::authority::Authority;
use super::challenge::OpenChallenge;
use crate::quota::failure_reports::FailureReports;
use crate::store::{ItemKind, ItemStore, StoreError};

/// How often the folder is looked into.
const INTERVAL: Duration = Duration::from_secs(1);

/// After this time, a challenge has been left behind by a node that was killed. Orders are much shorter.
const MAX_CHALLENGE_AGE: Duration = Duration::from_secs(60 * 60);

const UNUSABLE: &str = "folder of certificates cannot be used; those in memory are served, and none is ordered until it can";

const SEALED: &str = "a certificate in the store cannot be opened; the one in memory is served until another one is issued";

/// What is wrong, and the message that says so.
type ScanTrouble = (StoreError, &'static str);

/// The challenges of other nodes, as they were seen last.
#[derive(Default)]
struct SeenChallenges(HashMap<Box<str>, SeenChallenge>);

struct SeenChallenge {
    revision: u128,
    since: Instant,
    /// `None` if it cannot be read.
    challenge: Option<OpenChallenge>,
}

/// Scans until it is stopped; then nothing of other nodes is answered any more.
pub(super) async fn scan<S: ItemStore>(
    authority: Arc<Authority<S>>,
    reports: Arc<FailureReports>,
    mut stop: watch::Receiver<bool>,
) {
    let mut seen = SeenChallenges::default();
    let mut trouble = FolderTrouble::default();
    loop {
        let scanning = async {
            let usable = authority.store.check().await;
            let challenges = seen.scan(&authority).await;
            let certificates = scan_certificates(&authority).await;
            let found = trouble_of(usable.and(challenges), certificates);
            trouble.note(&authority, &reports, found.as_ref());
            sleep(INTERVAL).await;
        };
        tokio::select! {
            () = scanning => {}
            _ = stop.wait_for(|is_stopped| *is_stopped) => break,
        }
    }
    authority
        .parts
        .board
        .replace_others(&authority.config.name, []);
}

/// What is wrong with the folder, or else with the certificates in it.
fn trouble_of(
    folder: Result<(), StoreError>,
    certificates: Result<(), StoreError>,
) -> Option<ScanTrouble> {
    let is_usable = folder.is_ok();
    let error = folder.and(certificates).err()?;
    // An order writes over what cannot be opened.
    let message = match is_usable && error.is_sealed() {
        true => SEALED,
        false => UNUSABLE,
    };
    Some((error, message))
}

/// Why the folder cannot be used, as it was reported last; `None` if it can.
#[derive(Default)]
struct FolderTrouble(Option<Arc<str>>);

impl FolderTrouble {
    /// Reports that the folder cannot be used any more, or that it can again, once each.
    fn note<S: ItemStore>(
        &mut self,
        authority: &Authority<S>,
        reports: &FailureReports,
        found: Option<&ScanTrouble>,
    ) {
        let name = &*authority.config.name;
        let now: Option<Arc<str>> = found.map(|(error, _)| error.to_string().into());
        let before = std::mem::replace(&mut self.0, now.clone());
        match (&now, found) {
            (Some(cause), Some((error, message))) if before != now => {
                // It may change between two causes again and again.
                if let Some(unreported) = reports.admit(cause, std::time::Instant::now()) {
                    tracing::warn!(
                        authority = name,
                        error = &**cause,
                        hint = error.hint(),
                        unreported,
                        "{message}"
                    );
                }
            }
            (None, _) if before.is_some() => {
                tracing::info!(authority = name, "folder of certificates can be used again");
            }
            _ => {}
        }
        for cell in authority.cells().iter() {
            cell.note_folder(now.as_ref());
        }
    }
}

impl SeenChallenges {
    async fn scan<S: ItemStore>(&mut self, authority: &Authority<S>) -> Result<(), StoreError> {
        let listed = authority.store.list(ItemKind::Challenge).await?;
        self.0
            .retain(|name, _| listed.iter().any(|item| item.name == *name));
        let now = Instant::now();
        for item in listed {
            match self.0.get(&item.name) {
                Some(known) if known.revision == item.revision => {
                    if now.duration_since(known.since) >= MAX_CHALLENGE_AGE {
                        authority
                            .store
                            .remove(ItemKind::Challenge, &item.name)
                            .await?;
                        self.0.remove(&item.name);
                    }
                }
                _ => {
                    let read = authority.store.read(ItemKind::Challenge, &item.name);
                    let json = match read.await {
                        // It must not keep this node from the others; it is removed when it is old.
                        Err(error) if error.is_sealed() => {
                            tracing::info!(%error, "a challenge in the store is ignored");
                            None
                        }
                        read => read?,
                    };
                    let seen = SeenChallenge {
                        revision: item.revision,
                        since: now,
                        challenge: json.and_then(|json| OpenChallenge::parse(&json)),
                    };
                    self.0.insert(item.name, seen);
                }
            }
        }
        let others = self
            .0
            .iter()
            .filter_map(|(name, seen)| Some((name.clone(), seen.challenge.clone()?)));
        authority
            .parts
            .board
            .replace_others(&authority.config.name, others);
        Ok(())
    }
}

/// Serves what other nodes have stored, and puts back what the store has lost.
async fn scan_certificates<S: ItemStore>(authority: &Authority<S>) -> Result<(), StoreError> {
    let cells = authority.cells().clone();
    if cells.is_empty() {
        return Ok(());
    }
    let listed = authority.store.list(ItemKind::Certificate).await?;
    let revisions: HashMap<&str, u128> = listed
        .iter()
        .map(|item| (&*item.name, item.revision))
        .collect();
    let mut failure = None;
    for cell in cells {
        let done = match revisions.get(&*cell.item) {
            Some(revision) if cell.is_news(*revision) => {
                cell.load(&authority.store, Some(*revision)).await
            }
            Some(_) => Ok(()),
            None => cell.put_back(&authority.store).await,
        };
        failure = failure.or(done.err());
    }
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::seal::SealError;

    #[test]
    fn a_certificate_that_cannot_be_opened_does_not_prevent_orders() {
        let sealed = || {
            Err(StoreError::Sealed {
                item: "certificates/a".to_owned(),
                error: SealError::OtherSecret,
            })
        };
        let away = || Err(StoreError::Unavailable("away".to_owned()));
        let message = |folder, certificates| Some(trouble_of(folder, certificates)?.1);
        assert_eq!(message(Ok(()), Ok(())), None);
        assert_eq!(message(Ok(()), sealed()), Some(SEALED));
        assert_eq!(message(Ok(()), away()), Some(UNUSABLE));
        assert_eq!(message(away(), sealed()), Some(UNUSABLE));
        // Without a secret, the store as a whole cannot be used.
        assert_eq!(message(sealed(), sealed()), Some(UNUSABLE));
    }
}
