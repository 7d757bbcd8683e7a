//! Keeps this node's item in the store: under a lease, as it is now, and only if the name is this node's.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::claim::{NodeIdentity, NodeNameClaim, Standing};
use super::record::{MemberLoad, MemberRecord};
use super::roster::member_key;
use crate::config::model::FleetConfig;
use crate::https_client::backoff;
use crate::store::etcd::error::EtcdError;
use crate::store::etcd::link::EtcdLink;
use crate::store::etcd::wire::{Condition, EtcdItem, Transaction, WriteStep};

/// How long an item stays after its node has gone without a word.
pub(super) const LEASE: Duration = Duration::from_secs(30);

/// How often the lease is renewed.
pub(super) const RENEWAL: Duration = Duration::from_secs(5);

/// The time between two writes, at least: there is at most one in each.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two writes of which only the number of tunnels differs.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// The longest pause after a failure: well within the lease.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// How long the end of the lease may take when the node stops.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What this node says about itself changes: this finds out how it is now.
#[derive(Clone)]
pub struct LoadSource(Arc<dyn Fn() -> MemberLoad + Send + Sync>);

impl LoadSource {
    /// A source that asks `now`.
    pub fn new(now: impl Fn() -> MemberLoad + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }
}

impl fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoadSource")
    }
}

/// How the publisher ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum PublisherEnd {
    /// Not yet.
    #[default]
    Runs,
    /// The node leaves: its item goes at once.
    Leaves,
    /// Another process of the node takes over: the item stays.
    PassesOn,
}

/// What does not change while a process runs.
#[derive(Debug, Clone)]
pub(super) struct ProcessFacts {
    pub(super) identity: NodeIdentity,
    pub(super) generation: u64,
    pub(super) started: Box<str>,
}

/// Keeps this node's item.
pub(super) struct MemberPublisher {
    link: EtcdLink,
    fleet: Arc<FleetConfig>,
    facts: ProcessFacts,
    load: LoadSource,
    claim: watch::Sender<NodeNameClaim>,
    key: String,
    lease: Option<HeldLease>,
    /// What is in the store, as far as this process has written it.
    stored: Option<StoredRecord>,
    /// When the name was last found to be another node's.
    refused: Option<Instant>,
}

struct HeldLease {
    id: i64,
    renewed: Instant,
}

struct StoredRecord {
    modified: i64,
    /// The history of the store in which it was written.
    history: u64,
    /// `None` if another process of this node has written it.
    written: Option<(MemberLoad, Instant)>,
}

impl MemberPublisher {
    pub(super) fn new(
        link: EtcdLink,
        fleet: Arc<FleetConfig>,
        facts: ProcessFacts,
        load: LoadSource,
        claim: watch::Sender<NodeNameClaim>,
    ) -> Self {
        Self {
            key: member_key(link.client.prefix(), &fleet.node),
            link,
            fleet,
            facts,
            load,
            claim,
            lease: None,
            stored: None,
            refused: None,
        }
    }

    /// Works until it is to end.
    pub(super) async fn run(mut self, mut end: watch::Receiver<PublisherEnd>) {
        let mut ticks = interval(WRITE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        let how = loop {
            tokio::select! {
                biased;
                how = ended(&mut end) => break how,
                _ = ticks.tick() => {}
            }
            let done = tokio::select! {
                biased;
                how = ended(&mut end) => break how,
                done = self.step() => done,
            };
            if done.is_ok() {
                failures = 0;
                continue;
            }
            failures += 1;
            let pause = backoff(failures).min(MAX_PAUSE);
            let pause = pause.mul_f64(1.0 - fastrand::f64() / 2.0);
            if let Ok(how) = timeout(pause, ended(&mut end)).await {
                break how;
            }
        };
        if how == PublisherEnd::Leaves
            && let Some(lease) = self.lease
        {
            // Otherwise, it ends by itself.
            let _ = timeout(LEAVE_TIMEOUT, self.link.client.revoke(lease.id)).await;
        }
    }

    /// Renews the lease if that is due, and writes the item if it has changed. A failure is noted in the health of the
    /// store.
    async fn step(&mut self) -> Result<(), EtcdError> {
        let lease = self.keep_lease().await?;
        let load = (self.load.0)();
        if self.is_due(&load) {
            let written = self.write(lease, load).await;
            written.inspect_err(|error| self.link.health().not_written(error))?;
        }
        Ok(())
    }

    async fn keep_lease(&mut self) -> Result<i64, EtcdError> {
        let client = Arc::clone(&self.link.client);
        if let Some(lease) = &mut self.lease {
            if lease.renewed.elapsed() < RENEWAL {
                return Ok(lease.id);
            }
            match client.keep_alive(lease.id).await {
                Ok(()) => {
                    lease.renewed = Instant::now();
                    self.link.health().renewed();
                    return Ok(lease.id);
                }
                // The item has gone with it.
                Err(EtcdError::NoLease) => (self.lease, self.stored) = (None, None),
                Err(error) => {
                    self.link.health().not_renewed(&error);
                    return Err(error);
                }
            }
        }
        let granted = client.grant(LEASE).await;
        let granted = granted.inspect_err(|error| self.link.health().not_written(error))?;
        self.lease = Some(HeldLease {
            id: granted.id,
            renewed: Instant::now(),
        });
        Ok(granted.id)
    }

    fn is_due(&self, load: &MemberLoad) -> bool {
        if let Some(at) = self.refused {
            return at.elapsed() >= RENEWAL;
        }
        let stored = self.stored.as_ref();
        // A store that was restored has the item, and perhaps even its lease, as it was before.
        if stored.is_some_and(|it| it.history != self.history()) || self.link.health().has_refused()
        {
            return true;
        }
        let written = stored.and_then(|it| it.written.as_ref());
        written.is_none_or(|(written, at)| {
            let mut same_count = load.clone();
            same_count.tunnels = written.tunnels;
            same_count != *written || (load != written && at.elapsed() >= COUNT_INTERVAL)
        })
    }

    fn history(&self) -> u64 {
        self.link.mirror.contents().position().history
    }

    /// Writes the item, unless another node has it.
    async fn write(&mut self, lease: i64, load: MemberLoad) -> Result<(), EtcdError> {
        let value = self.record(load.clone()).to_json();
        // Once more if the item is this node's, but not as it was known.
        for _ in 0..2 {
            let condition = match &self.stored {
                Some(stored) => Condition::Unchanged(&self.key, stored.modified),
                None => Condition::Absent(&self.key),
            };
            let key = &*self.key;
            let put = WriteStep::Put {
                key,
                value: &value,
                lease,
            };
            let wanted = Transaction {
                conditions: &[condition],
                steps: &[put],
            };
            let result = self.link.client.transact(&wanted).await;
            let result = match result {
                // An expired lease is noticed here before it is renewed.
                Err(EtcdError::NoLease) => {
                    (self.lease, self.stored) = (None, None);
                    return Ok(());
                }
                result => result?,
            };
            if result.is_applied {
                self.stored = Some(StoredRecord {
                    modified: result.revision,
                    history: self.history(),
                    written: Some((load, Instant::now())),
                });
                self.link.health().written();
                self.hold();
                return Ok(());
            }
            self.link.health().decided();
            if !self.may_replace(result.found.first()) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Looks at the item that is there instead.
    fn may_replace(&mut self, found: Option<&EtcdItem>) -> bool {
        let history = self.history();
        self.stored = found.map(|item| StoredRecord {
            modified: item.modified,
            history,
            written: None,
        });
        let record = found.and_then(|item| MemberRecord::parse(&self.fleet.node, &item.value));
        let Some(record) = record else {
            // Nothing, or nothing that a node has written.
            return true;
        };
        if Standing::of(&record, &self.facts.identity).is_free() {
            return true;
        }
        self.refused = Some(Instant::now());
        // The item of another node is never replaced, only created after it has gone.
        self.stored = None;
        let is_news = !matches!(&*self.claim.borrow(), NodeNameClaim::Taken(_));
        if is_news {
            tracing::error!(
                node = &*self.fleet.node,
                admin = record.admin,
                started = record.started,
                "another node has the name of this one; this one is not listed until that has gone"
            );
        }
        self.claim
            .send_replace(NodeNameClaim::Taken(Arc::new(record)));
        false
    }

    /// The name is this node's.
    fn hold(&mut self) {
        self.refused = None;
        let was = self.claim.send_replace(NodeNameClaim::Held);
        if was != NodeNameClaim::Held {
            tracing::info!(node = &*self.fleet.node, "this node is listed in the store");
        }
    }

    fn record(&self, load: MemberLoad) -> MemberRecord {
        let ProcessFacts {
            identity,
            generation,
            started,
        } = &self.facts;
        MemberRecord {
            node: self.fleet.node.to_string(),
            instance: identity.instance.to_string(),
            admin: self.fleet.admin_url.as_deref().map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: *generation,
            started: started.to_string(),
            place: identity.process.place.to_string(),
            pid: identity.process.pid,
            pid_start: identity.process.start,
            load,
        }
    }
}

/// Waits until the publisher is to end.
async fn ended(end: &mut watch::Receiver<PublisherEnd>) -> PublisherEnd {
    let end = end.wait_for(|end| *end != PublisherEnd::Runs).await;
    // Without a sender, the process ends.
    end.map_or(PublisherEnd::PassesOn, |end| *end)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;
    use crate::config::model::{SharedThings, TrustedMembers};
    use crate::fleet::place::ProcessPlace;
    use crate::store::etcd::testing;
    use crate::upstream::connect::Connector;

    /// A publisher that has a lease, and has written nothing.
    fn publisher(member: &TcpListener) -> MemberPublisher {
        let settings = testing::settings(&[member]);
        let control = Handle::current();
        let link = EtcdLink::start(&control, &settings, Connector::default(), &Arc::default());
        let facts = ProcessFacts {
            identity: NodeIdentity {
                instance: "a".into(),
                process: ProcessPlace::own(),
            },
            generation: 0,
            started: "".into(),
        };
        let fleet = Arc::new(FleetConfig {
            node: "edge-1".into(),
            share: SharedThings::default(),
            admin_url: None,
            trusted: TrustedMembers::default(),
        });
        let load = LoadSource::new(MemberLoad::default);
        MemberPublisher::new(
            link,
            fleet,
            facts,
            load,
            watch::channel(NodeNameClaim::default()).0,
        )
    }

    fn lease(renewed: Instant) -> Option<HeldLease> {
        Some(HeldLease { id: 1, renewed })
    }

    /// A step while nothing responds, and one after the copy has been read again.
    async fn away_and_back(publisher: &mut MemberPublisher, is_up: &Cell<bool>) {
        let health = Arc::clone(publisher.link.health());
        is_up.set(false);
        assert!(publisher.step().await.is_err());
        assert!(health.condition().writing.is_some());
        is_up.set(true);
        health.reached();
        assert!(publisher.step().await.is_ok());
        assert_eq!(health.condition().writing, None);
    }

    #[tokio::test]
    async fn what_has_a_response_between_outages_makes_them_no_trouble_of_writes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut publisher = publisher(&listener);
        let is_up = Cell::new(true);
        // What the copy asks for fails.
        let responding = async {
            loop {
                testing::respond(&listener, |text| is_up.get() && !testing::is_of_copy(text)).await;
            }
        };
        let publishing = async {
            let long_ago = Instant::now().checked_sub(RENEWAL).unwrap();
            // Another node has the name: the lease is renewed, and nothing is written.
            publisher.refused = Some(Instant::now());
            for _ in 0..10 {
                publisher.lease = lease(long_ago);
                away_and_back(&mut publisher, &is_up).await;
            }
            // Writes have a response: that their condition does not hold.
            for _ in 0..10 {
                (publisher.lease, publisher.refused) = (lease(Instant::now()), None);
                away_and_back(&mut publisher, &is_up).await;
            }
        };
        tokio::select! {
            () = responding => unreachable!(),
            () = publishing => {}
        }
    }
}
