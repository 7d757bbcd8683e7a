//! Keys that nodes share: those of session tickets and of sticky cookies.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::listeners::Listeners;
use crate::config::model::{Config, SharedKeys, StoreConfig};
use crate::fleet::key_status::KeyWatch;
use crate::handover::state::KeysHandover;
use crate::net::tls_tickets;
use crate::snapshot::Snapshot;
use crate::store::ItemKind;
use crate::store::key_agreement::KeyPlan;
use crate::store::key_keeper::{KEYS_SCOPE, SharedKeyKeeper, SharedKeyState};
use crate::store::key_set::SharedKeySet;
use crate::store::shared::{SharedStore, StoreOpener};

/// How long a start waits for the store. Without a response, this process begins with keys of its own.
const FIRST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a key is stored before it is current. A network file system may show a node the listing of a minute ago.
const SPREAD: Duration = Duration::from_secs(90);

/// How often the node that makes the keys writes.
const BEAT: Duration = Duration::from_secs(5);

/// How long a node that makes the keys is silent before another one does.
const EXPIRY: Duration = Duration::from_secs(25);

/// How long a key of sticky cookies is current, at least.
const STICKY_ROTATION: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is configured about keys that nodes share.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct KeySharingConfig {
    store: Arc<StoreConfig>,
    /// The longest lifetime of a sticky cookie.
    cookie_ttl: Duration,
}

/// The keys that this process shares with other nodes.
#[derive(Debug)]
pub(super) struct KeySharing {
    control: Handle,
    stores: Arc<StoreOpener>,
    /// Distinguishes this process from all others, also from those before it.
    process: Box<str>,
    tickets: SharedKeyTask,
    sticky: SharedKeyTask,
    /// `None` while nothing is shared.
    config: Option<KeySharingConfig>,
    is_suspended: bool,
}

/// The keys for one purpose, and what keeps them.
#[derive(Debug)]
struct SharedKeyTask {
    state: watch::Sender<SharedKeyState>,
    seen: watch::Receiver<SharedKeyState>,
    applied: SharedKeys,
    /// Ends the task when it is dropped.
    stop: Option<watch::Sender<bool>>,
}

impl KeySharingConfig {
    /// `None` if no keys are shared.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let is_shared = config.fleet.as_ref().is_some_and(|fleet| fleet.share.keys);
        let store = config.store.as_ref().filter(|_| is_shared)?;
        let sticky = config.upstreams.iter().filter_map(|it| it.sticky.as_ref());
        let unkeyed = sticky.filter(|sticky| sticky.secret.is_none());
        Some(Self {
            store: Arc::clone(store),
            cookie_ttl: unkeyed.map(|sticky| sticky.ttl).max().unwrap_or_default(),
        })
    }

    fn ticket_plan() -> KeyPlan {
        KeyPlan {
            rotate_after: tls_tickets::ROTATION_INTERVAL,
            // A node that did not notice the next key yet issues tickets with the previous one.
            keep_for: tls_tickets::LIFETIME + 10 * SPREAD,
            spread: SPREAD,
            beat: BEAT,
            expiry: EXPIRY,
        }
    }

    fn sticky_plan(&self) -> KeyPlan {
        KeyPlan {
            rotate_after: STICKY_ROTATION,
            keep_for: self.cookie_ttl + 10 * SPREAD,
            ..Self::ticket_plan()
        }
    }
}

impl KeySharing {
    /// Shares nothing yet; begins with what a predecessor knew.
    pub(super) fn new(control: Handle, stores: &Arc<StoreOpener>, handed: KeysHandover) -> Self {
        Self {
            control,
            stores: Arc::clone(stores),
            process: format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).into(),
            tickets: SharedKeyTask::new(handed.tickets),
            sticky: SharedKeyTask::new(handed.sticky),
            config: None,
            is_suspended: false,
        }
    }

    /// From now on, keys are shared as configured.
    pub(super) fn apply(&mut self, config: Option<&KeySharingConfig>) {
        // A predecessor may have shared keys that this process does not share.
        let is_left_over = config.is_none() && self.is_known();
        if self.is_suspended || (self.config.as_ref() == config && !is_left_over) {
            return;
        }
        self.config = config.cloned();
        self.tickets.stop = None;
        self.sticky.stop = None;
        let Some(config) = config else {
            // Other nodes go on without this one: what it knows gets old.
            self.tickets.state.send_replace(SharedKeyState::default());
            self.sticky.state.send_replace(SharedKeyState::default());
            return;
        };
        let store = match self.stores.open(&config.store, KEYS_SCOPE) {
            Ok(store) => Arc::new(store),
            Err(error) => {
                tracing::error!(%error, "keys are not shared: the store cannot be opened");
                return;
            }
        };
        let (control, process) = (&self.control, &*self.process);
        let kinds = [
            (
                &mut self.tickets,
                ItemKind::TicketKeys,
                KeySharingConfig::ticket_plan(),
            ),
            (&mut self.sticky, ItemKind::StickyKeys, config.sticky_plan()),
        ];
        for (task, kind, plan) in kinds {
            task.start(control, &store, (kind, plan), process);
        }
    }

    /// The keys, for operators.
    pub(super) fn watched(&self) -> [KeyWatch; 2] {
        [
            (ItemKind::TicketKeys, self.tickets.seen.clone()),
            (ItemKind::StickyKeys, self.sticky.seen.clone()),
        ]
    }

    /// Waits until the store was asked once, or does not respond.
    pub(super) async fn first(&self) {
        if self.config.is_none() {
            return;
        }
        let asked = |task: &SharedKeyTask| {
            let mut state = task.seen.clone();
            async move {
                // What a predecessor knew is good enough.
                let is_known = |state: &SharedKeyState| state.was_asked || state.set.is_some();
                let _ = state.wait_for(is_known).await;
            }
        };
        let both = futures_util::future::join(asked(&self.tickets), asked(&self.sticky));
        // Without it, each node goes on alone.
        let _ = tokio::time::timeout(FIRST_TIMEOUT, both).await;
    }

    /// Has listeners and upstreams use the keys that are known now, if they have changed.
    pub(super) fn use_keys(&mut self, snapshot: &Snapshot, listeners: &mut Listeners) {
        if let Some(tickets) = self.tickets.news() {
            listeners.share_tickets(tickets);
        }
        if let Some(sticky) = self.sticky.news() {
            share_sticky_keys(snapshot, &sticky);
        }
    }

    /// Waits until keys may have changed. Cancel safe.
    pub(super) async fn changed(&mut self) {
        // The senders are here as well, so there is no error.
        tokio::select! {
            _ = self.tickets.seen.changed() => {}
            _ = self.sticky.seen.changed() => {}
        }
    }

    fn is_known(&self) -> bool {
        self.tickets.known().is_some() || self.sticky.known().is_some()
    }

    /// What a successor has to know.
    pub(super) fn hand_over(&self) -> KeysHandover {
        KeysHandover {
            tickets: self.tickets.known(),
            sticky: self.sticky.known(),
        }
    }

    /// Reads and writes nothing any more: the process stops or has handed over.
    pub(super) fn suspend(&mut self) {
        self.is_suspended = true;
        self.tickets.stop = None;
        self.sticky.stop = None;
    }
}

impl SharedKeyTask {
    fn new(set: Option<SharedKeySet>) -> Self {
        let (state, seen) = watch::channel(SharedKeyState {
            set,
            ..SharedKeyState::default()
        });
        Self {
            state,
            seen,
            applied: SharedKeys::default(),
            stop: None,
        }
    }

    fn start(
        &mut self,
        control: &Handle,
        store: &Arc<SharedStore>,
        (kind, plan): (ItemKind, KeyPlan),
        process: &str,
    ) {
        let (stop, stopped) = watch::channel(false);
        self.stop = Some(stop);
        let store = Arc::clone(store);
        let keeper = SharedKeyKeeper::new(store, kind, process, plan, self.state.clone());
        control.spawn(keeper.run(stopped));
    }

    fn known(&self) -> Option<SharedKeySet> {
        self.state.borrow().set.clone()
    }

    fn news(&mut self) -> Option<SharedKeys> {
        let now = self
            .known()
            .as_ref()
            .map(SharedKeySet::keys)
            .unwrap_or_default();
        (now != self.applied).then(|| {
            self.applied = now.clone();
            now
        })
    }
}

/// Has all upstreams use these keys.
fn share_sticky_keys(snapshot: &Snapshot, sticky: &SharedKeys) {
    snapshot.registry().set_sticky_keys(sticky);
    for upstream in snapshot.upstreams() {
        upstream.share_sticky_keys();
    }
}
