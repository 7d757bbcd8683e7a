//! The names of endpoints and their addresses, as the operating system resolves them.
//!
//! All sessions share one lookup per name. While it runs, and when it fails, they use the addresses of the one
//! before, as long as any endpoint has the name. The operating system's resolver blocks its thread, so
//! lookups have threads of their own: a name server that does not answer holds up nothing else.

mod queue;
mod state;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout_at;

use self::queue::{Enqueued, LookupQueue};
pub use self::state::ResolveError;
use self::state::{Look, NameState};
use super::lookups::LookupCounters;
use crate::quota::failure_reports::FailureReports;

/// Addresses of one name, at most; further ones are ignored.
const MAX_ADDRESSES: usize = 256;

/// Names in the table before those without endpoints are first removed.
const SWEEP_AT: usize = 256;

/// Looks up a name: its addresses, whose ports mean nothing. It may block.
pub type LookUpFn = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// A name that endpoints have, and what is known of it.
#[derive(Debug)]
pub(super) struct ResolvedName {
    host: Box<str>,
    state: watch::Sender<NameState>,
}

impl ResolvedName {
    /// The last known addresses, with this port.
    pub(super) fn addresses(&self, port: u16) -> Vec<SocketAddr> {
        let state = self.state.borrow();
        state
            .addresses()
            .map_or_else(Vec::new, |addresses| with_port(addresses, port))
    }

    /// How the latest lookup failed, if it did.
    pub(super) fn failure(&self) -> Option<ResolveError> {
        self.state.borrow().failure().cloned()
    }
}

/// Resolves names, once for all sessions.
pub(super) struct Resolver {
    look_up: Box<LookUpFn>,
    names: Mutex<NameTable>,
    queue: LookupQueue<Arc<ResolvedName>>,
    counters: LookupCounters,
    reports: FailureReports,
}

#[derive(Debug, Default)]
struct NameTable {
    names: HashMap<Box<str>, Weak<ResolvedName>>,
    /// The size at which names without endpoints are removed next.
    sweep_at: usize,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl Resolver {
    /// Lookups by `look_up`.
    pub(super) fn new(look_up: Box<LookUpFn>) -> Self {
        Self {
            look_up,
            names: Mutex::default(),
            queue: LookupQueue::default(),
            counters: LookupCounters::default(),
            reports: FailureReports::default(),
        }
    }

    /// The lookups so far.
    pub(super) fn counters(&self) -> &LookupCounters {
        &self.counters
    }

    /// How many names could not be resolved by their latest lookup.
    pub(super) fn unresolved(&self) -> usize {
        let table = self.table();
        let names = table.names.values().filter_map(Weak::upgrade);
        names.filter(|name| name.failure().is_some()).count()
    }

    /// The name `host`, which is remembered until the last of its holders drops it. If it is not known yet,
    /// it begins with the addresses `last_known`.
    pub(super) fn name(&self, host: &str, last_known: &[SocketAddr]) -> Arc<ResolvedName> {
        let mut table = self.table();
        if let Some(name) = table.names.get(host).and_then(Weak::upgrade) {
            return name;
        }
        if table.names.len() >= table.sweep_at.max(SWEEP_AT) {
            table.names.retain(|_, name| name.strong_count() > 0);
            // Twice what is left: amortised, an insertion costs a constant time.
            table.sweep_at = table.names.len() * 2;
        }
        let name = Arc::new(ResolvedName {
            host: host.into(),
            state: watch::Sender::new(NameState::with_old(last_known, Instant::now())),
        });
        table.names.insert(host.into(), Arc::downgrade(&name));
        name
    }

    /// The addresses of `name` with this port, at least one. If none are known yet, waits
    /// until the deadline, which is when the limit ends.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub(super) async fn addresses(
        self: &Arc<Self>,
        name: &Arc<ResolvedName>,
        port: u16,
        (limit, deadline): (Duration, tokio::time::Instant),
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let mut changes = None;
        loop {
            let until = match self.look(name, Instant::now()) {
                Look::Use(addresses) => return Ok(with_port(&addresses, port)),
                Look::Fail(error) => return Err(error),
                Look::Wait(until) => tokio::time::Instant::from_std(until).min(deadline),
            };
            let Some(changes) = &mut changes else {
                // What changes from here on is noticed; what has changed since the look, by the next one.
                changes = Some(name.state.subscribe());
                continue;
            };
            let changed = timeout_at(until, changes.changed()).await;
            if changed.is_err() && until == deadline {
                let state = name.state.borrow();
                return match state.addresses() {
                    Some(addresses) => Ok(with_port(addresses, port)),
                    None => Err(ResolveError::Timeout(limit)),
                };
            }
        }
    }

    /// What a session does about `name` now. Begins a lookup if one is due.
    fn look(self: &Arc<Self>, name: &Arc<ResolvedName>, now: Instant) -> Look {
        let state = name.state.borrow();
        if state.is_due(now) || state.is_late(now) {
            drop(state);
            self.begin_lookup(name, now);
            return name.state.borrow().look(now);
        }
        state.look(now)
    }

    fn begin_lookup(self: &Arc<Self>, name: &Arc<ResolvedName>, now: Instant) {
        let mut begins = false;
        let mut is_urgent = false;
        let mut has_timed_out = false;
        name.state.send_if_modified(|state| {
            // Another session may have been faster.
            begins = state.is_due(now);
            if begins {
                state.begin(now);
            }
            is_urgent = state.addresses().is_none();
            has_timed_out = state.times_out(now);
            has_timed_out
        });
        if has_timed_out {
            self.count_failure(name, &ResolveError::Timeout(state::LOOKUP_TIMEOUT));
        }
        if !begins {
            return;
        }
        match self.queue.push(Arc::clone(name), is_urgent) {
            Enqueued::Waits => {}
            Enqueued::NeedsThread(name) => self.start_thread(name),
            Enqueued::Full(name) => self.end_lookup(&name, Err("too many names wait".into())),
        }
    }

    fn start_thread(self: &Arc<Self>, name: Arc<ResolvedName>) {
        let resolver = Arc::clone(self);
        let first = Arc::clone(&name);
        let work = move || {
            let mut next = Some(first);
            while let Some(name) = next {
                resolver.run_lookup(&name);
                drop(name);
                next = resolver.queue.next();
            }
        };
        let thread = thread::Builder::new().name("lookup".to_owned());
        if let Err(error) = thread.spawn(work) {
            // The names that wait meanwhile fail with this one: no thread would take them.
            let mut next = Some(name);
            while let Some(name) = next {
                self.end_lookup(&name, Err(format!("no thread: {error}").into()));
                next = self.queue.next();
            }
        }
    }

    fn run_lookup(&self, name: &Arc<ResolvedName>) {
        // The time that the name has waited for a thread is not the name server's.
        name.state.send_if_modified(|state| {
            state.begin(Instant::now());
            false
        });
        let result = (self.look_up)(&name.host);
        let result = result.map_err(|error| error.to_string().into());
        self.end_lookup(name, result);
    }

    fn end_lookup(&self, name: &ResolvedName, result: Result<Vec<SocketAddr>, Arc<str>>) {
        let result = match result {
            Ok(found) if found.is_empty() => Err(ResolveError::Failed("no address".into())),
            Ok(mut found) => {
                found.truncate(MAX_ADDRESSES);
                Ok(found.into())
            }
            Err(why) => Err(ResolveError::Failed(why)),
        };
        match &result {
            Ok(_) => {
                self.counters.count(true);
                if name.failure().is_some() {
                    tracing::info!(name = &*name.host, "name resolved again");
                }
            }
            Err(error) => self.count_failure(name, error),
        }
        name.state
            .send_modify(|state| state.end(result, Instant::now()));
    }

    fn count_failure(&self, name: &ResolvedName, error: &ResolveError) {
        self.counters.count(false);
        let cause = error.to_string();
        if let Some(unreported) = self.reports.admit(&cause, Instant::now()) {
            let kept = name
                .state
                .borrow()
                .addresses()
                .map_or(0, |known| known.len());
            tracing::warn!(
                name = &*name.host,
                error = cause,
                kept,
                unreported,
                "name not resolved; the last known addresses stay in use"
            );
        }
    }

    fn table(&self) -> MutexGuard<'_, NameTable> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks up `host` as programs on this machine do. It blocks.
///
/// # Errors
/// The name has no address, or the name server does not answer.
pub(super) fn by_system(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

fn with_port(addresses: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
    let mut addresses = addresses.to_vec();
    for address in &mut addresses {
        address.set_port(port);
    }
    addresses
}

#[cfg(test)]
mod tests;
