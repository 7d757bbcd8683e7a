//! The base of the process: the state that workers share, the workers, and discovery.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::discovery::Lookups;
use super::errors::StartError;
use super::{limits, reload, worker, worker_mailbox};
use crate::acme::AcmeKeepers;
use crate::admin::command::{COMMAND_QUEUE, ControlCommand};
use crate::admin::generations::Generations;
use crate::admin::view::View;
use crate::config::Loaded;
use crate::config::model::Config;
use crate::displace::jobs::Jobs;
use crate::displace::worker_queries::{WorkerLink, Workers};
use crate::net::admission::Admission;
use crate::observe::log::start::Logging;
use crate::quota::failure_reports::FailureReports;
use crate::quota::shared::SharedLimits;
use crate::session::Shared;
use crate::snapshot::Snapshot;
use crate::upstream::connect::Connector;
use crate::upstream::registry::Registry;

/// The parts that every other part of the process needs.
pub(super) struct Base {
    pub(super) shared: Arc<Shared>,
    pub(super) workers: Arc<[worker_mailbox::WorkerHandle]>,
    pub(super) admission: Arc<Admission>,
    pub(super) lookups: Lookups,
    /// Those who keep certificates valid; they do nothing yet.
    pub(super) keepers: AcmeKeepers,
    /// File descriptors that the process may have open.
    pub(super) descriptors: u64,
}

impl Base {
    /// With a predecessor, a certificate that cannot be read is an error: the predecessor has it in memory, and
    /// goes on.
    pub(super) async fn build(
        config: &Config,
        registry: Registry,
        limits: SharedLimits,
        has_predecessor: bool,
    ) -> Result<Self, StartError> {
        // First of all: workers and lookups need descriptors, too.
        let descriptors = limits::raise_descriptors();
        let shared = Arc::new(Shared::new(
            Snapshot::first(config, Arc::new(registry), Arc::new(limits))?,
            Connector::default(),
        ));
        let mut lookups = Lookups::new(Handle::current(), Arc::clone(&shared));
        let (managed, connector) = (Arc::clone(&shared.managed), shared.connector.clone());
        let mut keepers = AcmeKeepers::new(Handle::current(), managed, connector, &shared.services);
        // What was obtained earlier is served to the first client.
        let loaded = keepers.load(&config.managed_certificates()).await;
        loaded.or_else(|error| match has_predecessor {
            true => Err(StartError::Certificates(error)),
            false => Ok(()),
        })?;
        // Before any worker accepts, so that the first clients find endpoints.
        lookups.begin(&config.upstreams).await;
        // Admits nothing yet: the limit is known once all workers have their descriptors.
        let admission = Arc::<Admission>::default();
        let workers: Result<Vec<_>, _> = (0..config.server.workers.get())
            .map(|number| worker::start(number, &shared, &admission))
            .collect();
        let target = shared.access_log.open(&config.server.access_log)?;
        shared.access_log.set(target);
        Ok(Self {
            shared,
            workers: workers?.into(),
            admission,
            lookups,
            keepers,
            descriptors,
        })
    }

    /// The view for operators, and the receiver of their orders.
    pub(super) fn view(
        &self,
        loaded: &Loaded,
        logging: &Logging,
        generation: u64,
    ) -> (Arc<View>, mpsc::Receiver<ControlCommand>) {
        let (ordering, orders) = mpsc::channel(COMMAND_QUEUE);
        let workers = Arc::new(askable(&self.workers));
        let view = View {
            jobs: Arc::new(Jobs::new(Arc::clone(&workers))),
            workers,
            shared: Arc::clone(&self.shared),
            admission: Arc::clone(&self.admission),
            acme_orders: Arc::clone(self.keepers.counters()),
            log_dropped: Arc::clone(logging.dropped()),
            scraping: tokio::sync::Mutex::default(),
            measuring: tokio::sync::Mutex::default(),
            loaded: ArcSwap::from_pointee(reload::describe(loaded)),
            listening: ArcSwap::default(),
            access: ArcSwap::default(),
            tls: ArcSwapOption::empty(),
            refused: FailureReports::default(),
            commands: ordering,
            generation,
            generations: Arc::<Generations>::default(),
            handing_over: AtomicBool::new(false),
        };
        (Arc::new(view), orders)
    }
}

fn askable(workers: &[worker_mailbox::WorkerHandle]) -> Workers {
    let asked = workers.iter().map(|worker| WorkerLink {
        queries: worker.questions.clone(),
        counters: Arc::clone(&worker.counters),
    });
    Workers::new(asked.collect())
}
