//! The state that the sessions of one worker share, and the state that all workers share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::recheck_list::Rechecks;
use super::service_desk::ServiceDesk;
use super::stream_record::StreamRecord;
use super::traced_tunnels::TracedTunnels;
use super::tunnel_record::TunnelRecord;
use crate::auth::Authenticator;
use crate::auth::revocations::RevokedSubjects;
use crate::auth::verified_tokens::VerifiedTokens;
use crate::config::model::AuthService;
use crate::drain::Tasks;
use crate::fleet::membership::FleetStatus;
use crate::https_client::service_traffic::ServiceTraffic;
use crate::net::managed_certificates::ManagedCertificates;
use crate::net::memory::MemoryGauge;
use crate::net::tls_handshakes::Handshakes;
use crate::observe::access_log::SessionId;
use crate::observe::counters::Counters;
use crate::observe::process::{ProcessStatus, Readiness};
use crate::observe::recorder::{AccessLog, Recorder};
use crate::probe::RouteProbes;
use crate::quota::Quota;
use crate::quota::shared::ReplacedTunnels;
use crate::snapshot::Snapshot;
use crate::streams::table::ExchangeTable;
use crate::traces::queue::SpanQueue;
use crate::tunnel::ended::{CloseMessage, Ended};
use crate::tunnel::scratch::Scratch;
use crate::tunnel::table::TunnelTable;
use crate::upstream::connect::Connector;
use crate::upstream::http::Pool;
use crate::upstream::lookups::LookupCounters;

/// The state that all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The running configuration. Each session reads it once.
    pub snapshot: ArcSwap<Snapshot>,
    /// The log that session events go to.
    pub access_log: Arc<AccessLog>,
    /// Finished spans on their way to the collector.
    pub spans: Arc<SpanQueue>,
    /// The tunnels of the process, counted against `server.max_tunnels`.
    tunnels: Arc<Quota>,
    /// The memory of the process against `server.memory`.
    pub memory: MemoryGauge,
    /// Resolves the names of endpoints and connects to them.
    pub connector: Connector,
    /// The certificates that tidegate obtains by itself, and its answers to the challenges of authorities.
    pub managed: Arc<ManagedCertificates>,
    /// The requests to services that the process depends on, such as certificate authorities.
    pub services: Arc<ServiceTraffic>,
    /// The fleet that this node is one of, and its store.
    pub fleet: Arc<FleetStatus>,
    /// The lookups of endpoint discovery.
    pub discovery: LookupCounters,
    /// The results of the probes of routes.
    pub probes: RouteProbes,
    /// Whether the process drains, and how its reloads went.
    pub process: Arc<ProcessStatus>,
    /// Subjects whose credentials were revoked.
    pub revocations: RevokedSubjects,
}

impl Shared {
    /// Starts with this configuration.
    pub fn new(snapshot: Snapshot, connector: Connector) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            access_log: Arc::default(),
            spans: Arc::default(),
            tunnels: Arc::default(),
            memory: MemoryGauge::default(),
            connector,
            managed: Arc::default(),
            services: Arc::default(),
            fleet: Arc::default(),
            discovery: LookupCounters::default(),
            probes: RouteProbes::default(),
            process: Arc::default(),
            revocations: RevokedSubjects::default(),
        }
    }
}

/// The state that the sessions of one worker share.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    /// Counters and access log.
    pub recorder: Rc<Recorder>,
    /// The worker's tasks.
    pub tasks: Tasks,
    /// The worker's live tunnels.
    pub tunnels: Rc<TunnelTable<TunnelRecord>>,
    /// The worker's plain requests that endpoints have.
    pub exchanges: Rc<ExchangeTable<StreamRecord>>,
    /// The worker's idle connections to endpoints.
    pub pool: Rc<Pool>,
    /// Its tunnels that newer ones have replaced.
    pub(super) replaced: Arc<ReplacedTunnels>,
    /// The TLS handshakes in progress, by listener.
    handshakes: RefCell<HashMap<Arc<str>, Rc<Handshakes>>>,
    /// By the name of the authentication.
    desks: RefCell<HashMap<Arc<str>, Rc<ServiceDesk>>>,
    /// The tokens whose signatures it has verified lately.
    pub(super) verified_tokens: VerifiedTokens,
    pub(super) scratch: Scratch,
    pub(super) rechecks: Rechecks,
    pub(super) traced: TracedTunnels,
    ids: RandomState,
    sessions: Cell<u64>,
}

impl Worker {
    /// A worker with no connections yet.
    pub fn new(shared: Arc<Shared>, counters: Arc<Counters>) -> Self {
        let recorder = Recorder {
            counters,
            log: Arc::clone(&shared.access_log),
            spans: Arc::clone(&shared.spans),
        };
        Self {
            shared,
            recorder: Rc::new(recorder),
            tasks: Tasks::default(),
            tunnels: Rc::default(),
            exchanges: Rc::default(),
            pool: Rc::default(),
            replaced: Arc::default(),
            handshakes: RefCell::default(),
            desks: RefCell::default(),
            verified_tokens: VerifiedTokens::default(),
            scratch: Scratch::new(),
            rechecks: Rechecks::default(),
            traced: TracedTunnels::default(),
            ids: RandomState::new(),
            sessions: Cell::new(0),
        }
    }

    /// Whether the memory of the process is nearly used up.
    pub fn is_memory_full(&self) -> bool {
        self.shared.memory.is_full()
    }

    /// The running configuration.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// A new session id, unique in practice across workers and processes.
    pub fn next_session(&self) -> SessionId {
        // A hash with a random key instead of a counter: ids of different workers, and of a process
        // and its successor, do not repeat in the log, without any state that they share.
        let number = self.sessions.get();
        self.sessions.set(number + 1);
        SessionId(self.ids.hash_one(number))
    }

    /// The TLS handshakes of `listener` on this worker.
    pub fn handshakes(&self, listener: &Arc<str>) -> Rc<Handshakes> {
        let mut handshakes = self.handshakes.borrow_mut();
        Rc::clone(handshakes.entry(Arc::clone(listener)).or_default())
    }

    /// What this worker keeps for the `service` of an authentication.
    pub(super) fn service_desk(
        &self,
        auth: &Authenticator,
        service: &AuthService,
    ) -> Rc<ServiceDesk> {
        let settings = &auth.settings;
        let mut desks = self.desks.borrow_mut();
        match desks.get(&settings.name) {
            Some(desk) if desk.is_for(settings) => Rc::clone(desk),
            _ => {
                let series = self.recorder.counters.auth(&settings.name);
                let desk = Rc::new(ServiceDesk::new(settings, service, series));
                desks.insert(Arc::clone(&settings.name), Rc::clone(&desk));
                desk
            }
        }
    }

    /// Adds up the traffic of about `limit` live tunnels, beginning with the place `from`, where 0 begins
    /// a sum. Returns where to continue; `None` once all are in the sum and it was published for scrapes.
    pub fn publish_traffic(&self, from: usize, limit: usize) -> Option<usize> {
        // Summed up from zero each time: a tunnel's meter is added for good when the tunnel ends.
        let counters = &self.recorder.counters;
        if from == 0 {
            let all_series = counters.endpoint_series();
            all_series.iter().for_each(|it| it.traffic.begin_sum());
        }
        let next = self.tunnels.sum_step(from, limit, |meter, record| {
            record.facts.series.traffic.add_live(meter);
        });
        if next.is_none() {
            let all_series = counters.endpoint_series();
            all_series.iter().for_each(|it| it.traffic.publish());
        }
        next
    }

    /// Closes tunnels that newer ones have replaced, once there are any.
    pub async fn close_replaced(&self) {
        let replaced = self.replaced.next().await;
        let message = Rc::new(CloseMessage::standard(Ended::Replaced));
        for (place, session) in replaced {
            // The place may have been reused since.
            let is_it = |record: &TunnelRecord| record.facts.session == SessionId(session);
            self.tunnels.close(place, &message, is_it);
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        self.shared.process.readiness()
    }

    pub(super) fn revocations(&self) -> &RevokedSubjects {
        &self.shared.revocations
    }

    pub(super) fn managed(&self) -> &ManagedCertificates {
        &self.shared.managed
    }

    pub(super) fn tunnel_quota(&self) -> &Arc<Quota> {
        &self.shared.tunnels
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.shared.connector
    }
}
