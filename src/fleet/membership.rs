//! This node in its fleet, as the configuration says: the connection to the store, and the node's item there.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::claim::{NodeIdentity, NodeNameClaim, Standing, is_renewed};
use super::key_status::{KeyInUse, SharedKeyStatus};
use super::place::ProcessPlace;
pub use super::publisher::LoadSource;
use super::publisher::{MemberPublisher, ProcessFacts, PublisherEnd, RENEWAL};
use super::record::MemberRecord;
use super::roster::member_key;
use crate::config::model::{Config, EtcdConfig, FleetConfig, StoreConfig, StorePlace};
use crate::https_client::service_traffic::ServiceTraffic;
use crate::store::etcd::client::EtcdClient;
use crate::store::etcd::error::EtcdError;
use crate::store::etcd::link::{EtcdLink, SERVICE};
use crate::store::shared::StoreOpener;
use crate::upstream::connect::Connector;

/// How long a start waits for the store, which may be away.
const START_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a start looks whether another node with its name renews its lease: once, with some time to spare.
const RENEWAL_WAIT: Duration = Duration::from_secs(RENEWAL.as_secs() + 3);

/// How often it looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Another node has the name of this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`fleet.node`: another node has the name `{node}`: process {pid}, started at {started}{}; give each node its own name",
    At(.admin.as_deref())
)]
pub struct NameInUse {
    /// The name.
    pub node: Box<str>,
    /// The process id of the other node.
    pub pid: u32,
    /// When that has started.
    pub started: Box<str>,
    /// Its admin interface.
    pub admin: Option<Box<str>>,
}

struct At<'a>(Option<&'a str>);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |url| {
            write!(f, ", with its admin interface at {url}")
        })
    }
}

/// The fleet and its store in a configuration.
#[derive(Debug, Clone, Default)]
pub struct ConfiguredFleet {
    /// What this node shares with others.
    pub fleet: Option<Arc<FleetConfig>>,
    /// Where.
    pub store: Option<Arc<StoreConfig>>,
}

impl ConfiguredFleet {
    /// Those of this configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            fleet: config.fleet.clone(),
            store: config.store.clone(),
        }
    }

    /// What is shared, if anything is.
    fn shares(&self) -> Option<&Arc<FleetConfig>> {
        let fleet = self.fleet.as_ref();
        fleet.filter(|fleet| !fleet.share.is_nothing())
    }

    /// How etcd is asked, if that is the store and anything is shared.
    fn etcd(&self) -> Option<&Arc<EtcdConfig>> {
        self.shares()?;
        match &self.store.as_ref()?.place {
            StorePlace::Etcd(etcd) => Some(etcd),
            StorePlace::Files(_) => None,
        }
    }

    /// What is shared, if members are.
    fn members(&self) -> Option<&Arc<FleetConfig>> {
        self.shares().filter(|fleet| fleet.share.members)
    }
}

/// What operators see of the fleet.
#[derive(Debug, Default)]
pub struct FleetStatus {
    state: ArcSwapOption<FleetState>,
    /// The keys that nodes share.
    pub keys: SharedKeyStatus,
}

/// The fleet as it is configured and running.
#[derive(Debug)]
pub struct FleetState {
    /// What is shared.
    pub settings: Arc<FleetConfig>,
    /// The store.
    pub store: Option<Arc<StoreConfig>>,
    /// The connection to etcd; `None` with another store.
    pub link: Option<EtcdLink>,
    /// Whether this node has its name.
    pub claim: watch::Receiver<NodeNameClaim>,
}

impl FleetStatus {
    /// The fleet; `None` if this node is not one of any.
    pub fn state(&self) -> Option<Arc<FleetState>> {
        self.state.load_full()
    }

    /// The keys in use that nodes share; none if this node shares no keys.
    pub fn keys_in_use(&self) -> Vec<KeyInUse> {
        let shares_keys = |state: Arc<FleetState>| state.settings.share.keys;
        match self.state().is_some_and(shares_keys) {
            true => self.keys.in_use(),
            false => Vec::new(),
        }
    }
}

/// This node in its fleet.
#[derive(Debug)]
pub struct Membership {
    control: Handle,
    connector: Connector,
    services: Arc<ServiceTraffic>,
    facts: ProcessFacts,
    status: Arc<FleetStatus>,
    stores: Arc<StoreOpener>,
    configured: ConfiguredFleet,
    link: Option<EtcdLink>,
    /// `None` while the process is not the one that serves.
    load: Option<LoadSource>,
    running: Option<RunningPublisher>,
}

#[derive(Debug)]
struct RunningPublisher {
    fleet: Arc<FleetConfig>,
    etcd: Arc<EtcdConfig>,
    claim: watch::Receiver<NodeNameClaim>,
    end: watch::Sender<PublisherEnd>,
    task: JoinHandle<()>,
}

/// What a process knows of itself when it starts.
#[derive(Debug, Clone)]
pub struct ProcessStart {
    /// The instance of its predecessor in an upgrade.
    pub instance: Option<Box<str>>,
    /// The number of this process in the sequence of upgrades.
    pub generation: u64,
    /// When it started, as operators see it.
    pub started: Box<str>,
}

impl Membership {
    /// In no fleet yet; its tasks will run on the runtime that this is called on. Requests to the store are counted in
    /// `services`.
    pub fn new(
        connector: Connector,
        services: &Arc<ServiceTraffic>,
        status: &Arc<FleetStatus>,
        stores: &Arc<StoreOpener>,
        start: ProcessStart,
    ) -> Self {
        let instance = start.instance.unwrap_or_else(new_instance);
        let identity = NodeIdentity {
            instance: instance.into(),
            process: ProcessPlace::own(),
        };
        Self {
            control: Handle::current(),
            connector,
            services: Arc::clone(services),
            facts: ProcessFacts {
                identity,
                generation: start.generation,
                started: start.started,
            },
            status: Arc::clone(status),
            stores: Arc::clone(stores),
            configured: ConfiguredFleet::default(),
            link: None,
            load: None,
            running: None,
        }
    }

    /// What distinguishes this node from any other, for the next process of an upgrade.
    pub fn instance(&self) -> &str {
        &self.facts.identity.instance
    }

    /// The connection to etcd, if that is the store.
    pub fn link(&self) -> Option<&EtcdLink> {
        self.link.as_ref()
    }

    /// Looks whether another node has the name of this one. One that may have ended a moment ago is not in the way: its
    /// name is free when its lease ends. Nor is a store that is away.
    ///
    /// # Errors
    /// [`NameInUse`].
    pub async fn check_name(&self, config: &Config) -> Result<(), NameInUse> {
        let configured = ConfiguredFleet::of(config);
        let (Some(fleet), Some(etcd)) = (configured.members(), configured.etcd()) else {
            return Ok(());
        };
        let counters = self.services.of(SERVICE);
        let client = EtcdClient::new(etcd, self.connector.clone(), counters);
        let key = member_key(client.prefix(), &fleet.node);
        let found = match timeout(START_TIMEOUT, client.get(&key)).await {
            Ok(Ok(page)) => page.items.into_iter().next(),
            Ok(Err(error)) => {
                warn_of_unknown(fleet, &error.to_string());
                return Ok(());
            }
            Err(_) => {
                warn_of_unknown(fleet, "it does not respond in time");
                return Ok(());
            }
        };
        let record = found
            .as_ref()
            .and_then(|item| MemberRecord::parse(&fleet.node, &item.value));
        let (Some(item), Some(record)) = (found, record) else {
            return Ok(());
        };
        let lives = match Standing::of(&record, &self.facts.identity) {
            Standing::Own | Standing::Gone => false,
            Standing::Lives => true,
            Standing::Elsewhere => {
                let renews = renews(&client, item.lease);
                matches!(timeout(RENEWAL_WAIT, renews).await, Ok(Ok(true)))
            }
        };
        match lives {
            false => Ok(()),
            true => Err(NameInUse {
                node: (&*fleet.node).into(),
                pid: record.pid,
                started: record.started.into(),
                admin: record.admin.map(Into::into),
            }),
        }
    }

    /// From now on, this node is in the fleet as the configuration says.
    pub fn apply(&mut self, configured: &ConfiguredFleet) {
        let etcd = configured.etcd();
        if self.link.as_ref().map(|link| link.client.settings()) != etcd {
            self.link = etcd.map(|etcd| self.stores.link(etcd));
            if self.link.is_none() {
                self.stores.close();
            }
        }
        self.keep_publisher(configured.members());
        self.configured = configured.clone();
        let claim = self.running.as_ref().map(|running| running.claim.clone());
        let state = configured.fleet.as_ref().map(|fleet| FleetState {
            settings: Arc::clone(fleet),
            store: configured.store.clone(),
            link: self.link.clone(),
            claim: claim.unwrap_or_else(|| watch::channel(NodeNameClaim::Pending).1),
        });
        self.status.state.store(state.map(Arc::new));
    }

    /// From now on, this process is the one that serves: others see it.
    pub fn publish(&mut self, load: LoadSource) {
        self.load = Some(load);
        let configured = self.configured.clone();
        self.apply(&configured);
    }

    fn keep_publisher(&mut self, members: Option<&Arc<FleetConfig>>) {
        let wanted = members.zip(self.link.as_ref()).zip(self.load.as_ref());
        let is_same = |running: &RunningPublisher| {
            wanted.is_some_and(|((fleet, link), _)| {
                *fleet == running.fleet && *link.client.settings() == running.etcd
            })
        };
        if self.running.as_ref().is_some_and(is_same) {
            return;
        }
        if let Some(running) = self.running.take() {
            // With the same name in the same store, the next one replaces the item.
            let keeps = wanted.is_some_and(|((fleet, link), _)| {
                fleet.node == running.fleet.node && *link.client.settings() == running.etcd
            });
            running.end.send_replace(match keeps {
                true => PublisherEnd::PassesOn,
                false => PublisherEnd::Leaves,
            });
        }
        self.running = wanted.map(|((fleet, link), load)| {
            let (claiming, claim) = watch::channel(NodeNameClaim::Pending);
            let (end, ends) = watch::channel(PublisherEnd::Runs);
            let facts = self.facts.clone();
            let fleet = Arc::clone(fleet);
            let publisher = MemberPublisher::new(
                link.clone(),
                Arc::clone(&fleet),
                facts,
                load.clone(),
                claiming,
            );
            RunningPublisher {
                fleet,
                etcd: Arc::clone(link.client.settings()),
                claim,
                end,
                task: self.control.spawn(publisher.run(ends)),
            }
        });
    }

    /// Another process of this node takes over: from now on, that one says how the node is.
    pub fn pass_on(&mut self) {
        self.load = None;
        if let Some(running) = self.running.take() {
            running.end.send_replace(PublisherEnd::PassesOn);
        }
    }

    /// The node stops: it leaves the list at once, if the store responds.
    pub async fn leave(&mut self) {
        self.load = None;
        if let Some(running) = self.running.take() {
            running.end.send_replace(PublisherEnd::Leaves);
            // It has a limit itself.
            let _ = running.task.await;
        }
    }
}

/// The store is away: that does not prevent a start.
fn warn_of_unknown(fleet: &FleetConfig, error: &str) {
    tracing::warn!(
        node = &*fleet.node,
        error,
        "whether another node has the name of this one is not known yet; this one starts all the same"
    );
}

/// Whether somebody renews the lease, before it ends.
async fn renews(client: &EtcdClient, lease: i64) -> Result<bool, EtcdError> {
    let began = Instant::now();
    let mut left = client.time_to_live(lease).await?;
    while left > 0 && began.elapsed() < RENEWAL_WAIT {
        sleep(LOOK_INTERVAL).await;
        let now = client.time_to_live(lease).await?;
        if is_renewed(left, now) {
            return Ok(true);
        }
        left = now;
    }
    Ok(false)
}

/// A new instance.
fn new_instance() -> Box<str> {
    let mut instance = String::new();
    for _ in 0..4 {
        let _ = write!(instance, "{:08x}", fastrand::u32(..));
    }
    instance.into()
}
