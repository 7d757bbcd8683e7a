//! Looks into the folder once a second for what other nodes have put there: challenges to answer, and
//! certificates to serve. Notifications of the operating system do not tell what other nodes do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::authority::Authority;
use super::challenge::OpenChallenge;
use super::store::{CertificateStore, ItemKind, StoreError};
use crate::quota::failure_reports::FailureReports;

/// How often the folder is looked into.
const INTERVAL: Duration = Duration::from_secs(1);

/// After this time, a challenge has been left behind by a node that was killed. Orders are much shorter.
const MAX_CHALLENGE_AGE: Duration = Duration::from_secs(60 * 60);

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
pub(super) async fn scan<S: CertificateStore>(
    authority: Arc<Authority<S>>,
    reports: Arc<FailureReports>,
    mut stop: watch::Receiver<bool>,
) {
    let mut seen = SeenChallenges::default();
    loop {
        let scanning = async {
            let challenges = seen.scan(&authority).await;
            let certificates = scan_certificates(&authority).await;
            if let Err(error) = challenges.and(certificates) {
                report(&authority, &reports, &error);
            }
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

fn report<S>(authority: &Authority<S>, reports: &FailureReports, error: &StoreError) {
    let cause = error.to_string();
    if let Some(unreported) = reports.admit(&cause, std::time::Instant::now()) {
        let authority = &*authority.config.name;
        tracing::warn!(
            authority,
            error = cause,
            unreported,
            "folder of certificates not read"
        );
    }
}

impl SeenChallenges {
    async fn scan<S: CertificateStore>(
        &mut self,
        authority: &Authority<S>,
    ) -> Result<(), StoreError> {
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
                    let json = authority
                        .store
                        .read(ItemKind::Challenge, &item.name)
                        .await?;
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

/// Serves what other nodes have stored.
async fn scan_certificates<S: CertificateStore>(
    authority: &Authority<S>,
) -> Result<(), StoreError> {
    let cells = authority.cells().clone();
    if cells.is_empty() {
        return Ok(());
    }
    let listed = authority.store.list(ItemKind::Certificate).await?;
    let revisions: HashMap<&str, u128> = listed
        .iter()
        .map(|item| (&*item.name, item.revision))
        .collect();
    for cell in cells {
        if let Some(revision) = revisions.get(&*cell.item)
            && cell.is_news(*revision)
        {
            cell.load(&authority.store, Some(*revision)).await?;
        }
    }
    Ok(())
}
