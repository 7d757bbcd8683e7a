//! What the sessions of one worker share, and what all workers share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::record::TunnelRecord;
use crate::drain::Tasks;
use crate::net::handshakes::Handshakes;
use crate::observe::access_log::SessionId;
use crate::observe::counters::Counters;
use crate::observe::recorder::{AccessLog, Recorder};
use crate::quota::Quota;
use crate::snapshot::Snapshot;
use crate::tunnel::copy::Scratch;
use crate::tunnel::table::TunnelTable;
use crate::upstream::connect::Connector;
use crate::upstream::http::Pool;

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration as running; read once per session.
    pub snapshot: ArcSwap<Snapshot>,
    /// Where the events of sessions are logged.
    pub access_log: Arc<AccessLog>,
    /// Tunnels of the process, as far as they are limited.
    tunnels: Arc<Quota>,
    /// Finds the addresses of endpoints.
    pub connector: Connector,
}

impl Shared {
    /// Begins with this configuration.
    pub fn new(snapshot: Snapshot, connector: Connector) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            access_log: Arc::default(),
            tunnels: Arc::default(),
            connector,
        }
    }
}

/// What one worker's sessions share.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    /// What it records with.
    pub recorder: Rc<Recorder>,
    /// Its tasks.
    pub tasks: Tasks,
    /// Its live tunnels.
    pub tunnels: Rc<TunnelTable<TunnelRecord>>,
    /// Its idle connections to endpoints.
    pub pool: Rc<Pool>,
    /// Its TLS handshakes, by listener.
    handshakes: RefCell<HashMap<Arc<str>, Rc<Handshakes>>>,
    pub(super) scratch: Scratch,
    ids: RandomState,
    sessions: Cell<u64>,
}

impl Worker {
    /// With nothing running.
    pub fn new(shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        let log = Arc::clone(&shared.access_log);
        Self {
            shared,
            recorder: Rc::new(Recorder { counters, log }),
            tasks: Tasks::default(),
            tunnels: Rc::default(),
            pool: Rc::default(),
            handshakes: RefCell::default(),
            scratch: Scratch::new(),
            ids: RandomState::new(),
            sessions: Cell::new(0),
        }
    }

    /// The configuration as running.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// An id that no other session has.
    pub fn next_session(&self) -> SessionId {
        let number = self.sessions.get();
        self.sessions.set(number + 1);
        SessionId(self.ids.hash_one(number))
    }

    /// The TLS handshakes of `listener` here.
    pub fn handshakes(&self, listener: &Arc<str>) -> Rc<Handshakes> {
        let mut handshakes = self.handshakes.borrow_mut();
        Rc::clone(handshakes.entry(Arc::clone(listener)).or_default())
    }

    /// Shows in the counters what live tunnels have carried by now, too.
    pub fn show_carried(&self) {
        let ways = self.recorder.counters.ways();
        ways.iter().for_each(|way| way.carried.begin_sum());
        self.tunnels.for_each(|entry, record| {
            record.facts.way.carried.add_live(&entry.meter);
        });
        ways.iter().for_each(|way| way.carried.show());
    }

    pub(super) fn tunnel_quota(&self) -> &Arc<Quota> {
        &self.shared.tunnels
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.shared.connector
    }
}
