//! An authority as running: its settings, its folder, and what asks it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::board::{ChallengeBoard, NameClaim};
use super::cell::CertificateCell;
use super::challenge::OpenChallenge;
use super::dns::{RecordAction, change_record};
use super::errors::AcmeError;
use crate::config::model::{AcmeConfig, ChallengeKind, DnsMeans, Roots};
use crate::https_client::service_traffic::ServiceTraffic;
use crate::https_client::{HttpsClient, HttpsClientError};
use crate::store::shared::StoreOpener;
use crate::store::{ItemKind, ItemStore};
use crate::upstream::connect::Connector;

/// How long other nodes have to find a challenge in the folder before the authority looks for it.
const ANSWER_DELAY: Duration = Duration::from_secs(3);

/// Orders of this process at the same time, at most.
const MAX_ORDERS: usize = 4;

/// What all authorities of the process share.
#[derive(Debug, Clone)]
pub(super) struct AuthorityParts {
    /// Distinguishes this process from others on the same folder.
    pub(super) node: Arc<str>,
    pub(super) board: Arc<ChallengeBoard>,
    pub(super) orders: Arc<Semaphore>,
    pub(super) connector: Connector,
    pub(super) stores: Arc<StoreOpener>,
    /// Where requests to authorities, and to services that publish TXT records, are counted.
    pub(super) services: Arc<ServiceTraffic>,
}

impl AuthorityParts {
    pub(super) fn new(
        board: Arc<ChallengeBoard>,
        connector: Connector,
        stores: &Arc<StoreOpener>,
        services: &Arc<ServiceTraffic>,
    ) -> Self {
        Self {
            stores: Arc::clone(stores),
            node: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).into(),
            board,
            orders: Arc::new(Semaphore::new(MAX_ORDERS)),
            connector,
            services: Arc::clone(services),
        }
    }
}

/// An authority as running.
#[derive(Debug)]
pub(super) struct Authority<S> {
    pub(super) config: Arc<AcmeConfig>,
    pub(super) store: S,
    pub(super) parts: AuthorityParts,
    client: Result<HttpsClient, String>,
    dns_client: Option<Result<HttpsClient, String>>,
    cells: Mutex<Vec<Arc<CertificateCell>>>,
}

impl<S: ItemStore> Authority<S> {
    pub(super) fn new(config: &Arc<AcmeConfig>, store: S, parts: AuthorityParts) -> Self {
        let shown = |error: HttpsClientError| error.to_string();
        let service = format!("acme/{}", config.name);
        let requests = parts.services.of(&service);
        let client = HttpsClient::new(parts.connector.clone(), &config.roots, requests);
        let dns_client = config.dns.as_ref().map(|publisher| {
            let roots = match &publisher.by {
                DnsMeans::Hook(_) => Roots::Given(Vec::new()),
                DnsMeans::Service { .. } => Roots::Platform,
            };
            let requests = parts.services.of(&format!("{service}/dns"));
            let client = HttpsClient::new(parts.connector.clone(), &roots, requests);
            client.map(HttpsClient::allow_plain).map_err(shown)
        });
        Self {
            config: Arc::clone(config),
            store,
            parts,
            client: client.map_err(shown),
            dns_client,
            cells: Mutex::default(),
        }
    }

    /// What asks the authority.
    pub(super) fn client(&self) -> Result<HttpsClient, AcmeError> {
        self.client.clone().map_err(AcmeError::Unreachable)
    }

    /// The certificates that are read from the folder as soon as they change.
    pub(super) fn cells(&self) -> MutexGuard<'_, Vec<Arc<CertificateCell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no other order of this process has these names validated by tls-alpn-01.
    pub(super) async fn claim(&self, challenges: &[OpenChallenge]) -> NameClaim {
        let by_tls = challenges
            .iter()
            .filter(|each| each.kind() == Some(ChallengeKind::TlsAlpn01));
        let mut names: Vec<Box<str>> = by_tls.map(|each| each.name.as_str().into()).collect();
        names.sort_unstable();
        names.dedup();
        self.parts.board.claim(names).await
    }

    /// Answers a challenge, here and on all other nodes, for the order of `item`.
    pub(super) async fn open(
        &self,
        item: &str,
        challenge: &OpenChallenge,
    ) -> Result<(), AcmeError> {
        let name = format!("{item}@{:016x}", fastrand::u64(..));
        let board = &self.parts.board;
        // What was begun is found by `close`, wherever this ends.
        board
            .open(&self.config.name, &name, challenge.clone())
            .map_err(AcmeError::Key)?;
        self.store
            .write(ItemKind::Challenge, &name, challenge.to_json())
            .await?;
        if challenge.kind() == Some(ChallengeKind::Dns01) {
            self.change_record(RecordAction::Present, challenge)
                .await
                .map_err(AcmeError::Dns)?;
        }
        Ok(())
    }

    /// How long after challenges were opened the authority is asked to look for them.
    pub(super) fn answer_delay(&self, challenges: &[OpenChallenge]) -> Duration {
        let propagation = self
            .config
            .dns
            .as_ref()
            .map(|publisher| publisher.propagation);
        let delays = challenges.iter().map(|challenge| match challenge.kind() {
            Some(ChallengeKind::Dns01) => propagation.unwrap_or_default(),
            _ => ANSWER_DELAY,
        });
        delays.max().unwrap_or_default()
    }

    /// Answers the challenges of this process for `item` no longer.
    pub(super) async fn close(&self, item: &str) {
        for (name, challenge) in self.parts.board.own(&self.config.name, &format!("{item}@")) {
            self.parts.board.close(&self.config.name, &name);
            self.discard(&name, &challenge).await;
        }
    }

    /// Removes challenges for `item` that a node has left behind. Its lease is ours.
    pub(super) async fn clear(&self, item: &str) -> Result<(), AcmeError> {
        let prefix = format!("{item}@");
        let own = self.parts.board.own(&self.config.name, &prefix);
        for found in self.store.list(ItemKind::Challenge).await? {
            let is_own = own.iter().any(|(name, _)| *name == found.name);
            if is_own || !found.name.starts_with(&prefix) {
                continue;
            }
            let json = match self.store.read(ItemKind::Challenge, &found.name).await {
                // The node that has opened it had another secret. If there is a DNS record, it stays.
                Err(error) if error.is_sealed() => None,
                read => read?,
            };
            match json.and_then(|json| OpenChallenge::parse(&json)) {
                Some(challenge) => self.discard(&found.name, &challenge).await,
                None => self.store.remove(ItemKind::Challenge, &found.name).await?,
            }
        }
        Ok(())
    }

    async fn discard(&self, name: &str, challenge: &OpenChallenge) {
        if challenge.kind() == Some(ChallengeKind::Dns01)
            && let Err(error) = self.change_record(RecordAction::Cleanup, challenge).await
        {
            let record = challenge.record_name();
            tracing::warn!(
                authority = &*self.config.name,
                record,
                error,
                "DNS record of a challenge not removed"
            );
        }
        if let Err(error) = self.store.remove(ItemKind::Challenge, name).await {
            tracing::warn!(authority = &*self.config.name, %error, "closed challenge not removed");
        }
    }

    async fn change_record(
        &self,
        action: RecordAction,
        challenge: &OpenChallenge,
    ) -> Result<(), String> {
        let (Some(publisher), Some(client)) = (&self.config.dns, &self.dns_client) else {
            return Err("nothing is configured that publishes records".to_owned());
        };
        let client = client.as_ref().map_err(Clone::clone)?;
        change_record(publisher, client, action, challenge).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::authority;
    use super::*;
    use crate::net::managed_certificates::ManagedCertificates;
    use crate::store::VersionedStore;
    use crate::store::seal::sealer;
    use crate::store::sealed_store::SealedStore;
    use crate::store::versioned_folder::VersionedFolder;

    #[tokio::test]
    async fn challenges_are_cleared_also_if_they_cannot_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let kind = ItemKind::Challenge;
        let before = VersionedFolder::new(folder.path());
        for name in ["a@1", "a@2", "b@1"] {
            let sealed = sealer(&[1], "acme/ca").seal(kind, name, b"{}").unwrap();
            before.write(kind, name, sealed).await.unwrap();
        }
        let managed = Arc::new(ManagedCertificates::default());
        let board = Arc::new(ChallengeBoard::new(managed));
        let services = Arc::default();
        let control = tokio::runtime::Handle::current();
        let stores = StoreOpener::new(control, Connector::default(), &services);
        let connector = Connector::default();
        let parts = AuthorityParts::new(board, connector, &Arc::new(stores), &services);
        let store = SealedStore::new(VersionedFolder::new(folder.path()), sealer(&[2], "acme/ca"));
        let authority = Authority::new(&Arc::new(authority()), store, parts);
        authority.clear("a").await.unwrap();
        let left = authority.store.list(kind).await.unwrap();
        let left: Vec<&str> = left.iter().map(|item| &*item.name).collect();
        assert_eq!(left, ["b@1"]);
        assert!(authority.store.load(kind, "b@1").await.is_err());
    }
}
