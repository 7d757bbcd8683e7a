//! Queries to the workers, and their responses.
//!
//! A worker carries data on the same thread. A query over many tunnels is therefore split into pages,
//! each so short that no tunnel notices, and the caller asks for the next page.

use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::tunnel_filter::{SessionKind, TunnelFilter};
use super::tunnel_page::{CloseCandidate, LiveTunnel, TablePosition, TunnelPage, TunnelRef, page};
use crate::observe::access_log::SessionId;
use crate::observe::counters::Counters;
use crate::session::{StreamRecord, TunnelRecord, Worker};
use crate::streams::ended::StreamEnded;
use crate::streams::exchange::Exchange;
use crate::tunnel::ended::{CloseMessage, Ended};

/// Queries that may wait for a worker.
pub const QUERY_QUEUE: usize = 64;

/// Tunnels whose traffic a worker adds up at once.
const SUM_LENGTH: usize = 512;

/// How long a worker may take for one query before it counts as unresponsive.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A query, and where the response goes.
#[derive(Debug)]
pub enum WorkerQuery {
    /// Do nothing but respond.
    Ping(oneshot::Sender<()>),
    /// Add the traffic of live tunnels to its counters: of the next ones, beginning with this place of
    /// its table. Responds with the place to continue with, if there are more.
    PublishTraffic(usize, oneshot::Sender<Option<usize>>),
    /// List the tunnels and streams that match, among the next places of its tables.
    Tunnels {
        /// The position to begin with.
        from: TablePosition,
        /// Selects tunnels.
        filter: Arc<TunnelFilter>,
        /// Receives the page.
        response: oneshot::Sender<TunnelPage<LiveTunnel>>,
    },
    /// List the tunnels and streams that match, with only what choosing those to close takes.
    Candidates {
        /// The position to begin with.
        from: TablePosition,
        /// Selects tunnels.
        filter: Arc<TunnelFilter>,
        /// Receives the page.
        response: oneshot::Sender<TunnelPage<CloseCandidate>>,
    },
    /// End this many of the tunnels with the most unwritten bytes, for this reason; responds with the
    /// number of those bytes.
    EndLargest(usize, Ended, oneshot::Sender<usize>),
    /// Move the end of the credential of this tunnel; responds with whether it has one.
    Extend(TunnelRef, NonZeroU32, oneshot::Sender<bool>),
    /// Close these tunnels and streams with this Close message; responds with how many were still open.
    Close(Vec<TunnelRef>, CloseMessage, oneshot::Sender<usize>),
}

/// Carries out a query on its worker. A response that fails to send is fine: the caller has given up.
pub fn execute(worker: &Worker, query: WorkerQuery) {
    match query {
        WorkerQuery::Ping(done) => {
            let _ = done.send(());
        }
        WorkerQuery::PublishTraffic(from, done) => {
            let _ = done.send(worker.publish_traffic(from, SUM_LENGTH));
        }
        WorkerQuery::Tunnels {
            from,
            filter,
            response,
        } => {
            let _ = response.send(page(worker, from, &filter));
        }
        WorkerQuery::Candidates {
            from,
            filter,
            response,
        } => {
            let _ = response.send(page(worker, from, &filter));
        }
        WorkerQuery::EndLargest(count, reason, held) => {
            let ended = worker
                .tunnels
                .end_largest_unwritten(usize::MAX, count, reason);
            let _ = held.send(ended);
        }
        WorkerQuery::Extend(tunnel, ends, moved) => {
            let is_it = |record: &TunnelRecord| record.facts.session == SessionId(tunnel.session);
            let _ = moved.send(worker.tunnels.extend(tunnel.place, ends, is_it));
        }
        WorkerQuery::Close(named, words, closed) => {
            let words = Rc::new(words);
            let close = |named: &TunnelRef| {
                // The place may have been reused since the tunnel was listed.
                let session = SessionId(named.session);
                match named.kind {
                    SessionKind::Tunnel => {
                        let is_it = |record: &TunnelRecord| record.facts.session == session;
                        worker.tunnels.close(named.place, &words, is_it)
                    }
                    SessionKind::Stream => {
                        let is_it = |it: &Exchange<StreamRecord>| {
                            it.owner.session == session && (it.is_stream() || it.is_event_stream())
                        };
                        let reason = StreamEnded::Forced(words.ended);
                        worker.exchanges.close(named.place, reason, is_it)
                    }
                }
            };
            let count = named.iter().filter(|named| close(named)).count();
            let _ = closed.send(count);
        }
    }
}

/// The link to a worker.
#[derive(Debug)]
pub struct WorkerLink {
    /// The queue of its queries.
    pub queries: mpsc::Sender<WorkerQuery>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

/// All workers.
#[derive(Debug)]
pub struct Workers(Vec<WorkerLink>);

/// A position in a listing: a worker, and a place in its table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListPosition {
    /// The number of the worker.
    pub worker: usize,
    /// The position in that worker's tables.
    pub table: TablePosition,
}

impl Workers {
    /// Links to all workers.
    pub fn new(workers: Vec<WorkerLink>) -> Self {
        Self(workers)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their counters.
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        let counters = self.0.iter().map(|worker| &worker.counters);
        counters.map(Arc::clone).collect()
    }

    /// Has all of them add the traffic of live tunnels to their counters; returns whether all did so in
    /// time.
    pub async fn publish_traffic(&self, limit: Duration) -> bool {
        let published = self.0.iter().map(|worker| async {
            let mut next = Some(0);
            while let Some(from) = next {
                next = worker
                    .respond(|done| WorkerQuery::PublishTraffic(from, done))
                    .await?;
            }
            Some(())
        });
        Self::all_within(limit, published).await
    }

    /// Whether all of them respond in time.
    pub async fn respond(&self, limit: Duration) -> bool {
        let responses = self
            .0
            .iter()
            .map(|worker| worker.respond(WorkerQuery::Ping));
        Self::all_within(limit, responses).await
    }

    async fn all_within(
        limit: Duration,
        responses: impl IntoIterator<Item = impl Future<Output = Option<()>>>,
    ) -> bool {
        let finished = tokio::time::timeout(limit, join_all(responses)).await;
        finished.is_ok_and(|responses| responses.iter().all(Option::is_some))
    }

    /// Calls `visit` with each tunnel that matches, page by page and worker by worker, from `from` on until
    /// it returns `false`. Returns the position after that tunnel.
    ///
    /// # Errors
    /// [`WorkerUnresponsive`].
    pub async fn tunnels(
        &self,
        filter: &Arc<TunnelFilter>,
        from: ListPosition,
        mut visit: impl FnMut(usize, LiveTunnel) -> bool,
    ) -> Result<Option<ListPosition>, WorkerUnresponsive> {
        let mut position = from.table;
        for (worker, link) in self.0.iter().enumerate().skip(from.worker) {
            let mut next = Some(std::mem::take(&mut position));
            while let Some(from) = next {
                let page = link.page(from, filter).await?;
                for tunnel in page.tunnels {
                    let TunnelRef { kind, place, .. } = tunnel.reference;
                    if !visit(worker, tunnel) {
                        let place = place + 1;
                        let table = TablePosition { kind, place };
                        return Ok(Some(ListPosition { worker, table }));
                    }
                }
                next = page.next;
            }
        }
        Ok(None)
    }

    /// Calls `visit` with each tunnel that matches and its worker, page by page and worker by worker.
    ///
    /// # Errors
    /// [`WorkerUnresponsive`].
    pub async fn candidates(
        &self,
        filter: &Arc<TunnelFilter>,
        mut visit: impl FnMut(usize, CloseCandidate),
    ) -> Result<(), WorkerUnresponsive> {
        for worker in 0..self.len() {
            let visit = |candidate| visit(worker, candidate);
            self.candidates_of(worker, filter, visit).await?;
        }
        Ok(())
    }

    /// Calls `visit` with each tunnel of one worker that matches, page by page.
    ///
    /// # Errors
    /// [`WorkerUnresponsive`].
    pub async fn candidates_of(
        &self,
        worker: usize,
        filter: &Arc<TunnelFilter>,
        mut visit: impl FnMut(CloseCandidate),
    ) -> Result<(), WorkerUnresponsive> {
        let link = self.0.get(worker).ok_or(WorkerUnresponsive)?;
        let mut next = Some(TablePosition::default());
        while let Some(from) = next {
            let page = link.candidates(from, filter).await?;
            page.tunnels.into_iter().for_each(&mut visit);
            next = page.next;
        }
        Ok(())
    }

    /// Ends, on each worker, `count` of the tunnels with the most unwritten bytes. Returns the number of
    /// those bytes; 0 for a worker that does not respond.
    pub async fn end_largest(&self, count: usize, reason: Ended) -> usize {
        let asking = self.0.iter().map(|link| async {
            let (held, response) = oneshot::channel();
            let query = WorkerQuery::EndLargest(count, reason, held);
            link.ask(query, response).await.unwrap_or(0)
        });
        join_all(asking).await.into_iter().sum()
    }

    /// Moves the end of the credential of a tunnel; returns whether the tunnel has one.
    ///
    /// # Errors
    /// [`WorkerUnresponsive`].
    pub async fn extend(
        &self,
        worker: usize,
        tunnel: TunnelRef,
        ends: NonZeroU32,
    ) -> Result<bool, WorkerUnresponsive> {
        let link = self.0.get(worker).ok_or(WorkerUnresponsive)?;
        let (moved, response) = oneshot::channel();
        link.ask(WorkerQuery::Extend(tunnel, ends, moved), response)
            .await
    }

    /// Closes tunnels of one worker; returns how many were still open.
    ///
    /// # Errors
    /// [`WorkerUnresponsive`].
    pub async fn close(
        &self,
        worker: usize,
        named: Vec<TunnelRef>,
        words: CloseMessage,
    ) -> Result<usize, WorkerUnresponsive> {
        let link = self.0.get(worker).ok_or(WorkerUnresponsive)?;
        let (closed, count) = oneshot::channel();
        link.ask(WorkerQuery::Close(named, words, closed), count)
            .await
    }
}

impl WorkerLink {
    async fn page(
        &self,
        from: TablePosition,
        filter: &Arc<TunnelFilter>,
    ) -> Result<TunnelPage<LiveTunnel>, WorkerUnresponsive> {
        let (response, page) = oneshot::channel();
        let query = WorkerQuery::Tunnels {
            from,
            filter: Arc::clone(filter),
            response,
        };
        self.ask(query, page).await
    }

    async fn candidates(
        &self,
        from: TablePosition,
        filter: &Arc<TunnelFilter>,
    ) -> Result<TunnelPage<CloseCandidate>, WorkerUnresponsive> {
        let (response, page) = oneshot::channel();
        let query = WorkerQuery::Candidates {
            from,
            filter: Arc::clone(filter),
            response,
        };
        self.ask(query, page).await
    }

    async fn ask<T>(
        &self,
        query: WorkerQuery,
        response: oneshot::Receiver<T>,
    ) -> Result<T, WorkerUnresponsive> {
        let exchange = async {
            self.queries.send(query).await.ok()?;
            response.await.ok()
        };
        let response = tokio::time::timeout(PAGE_TIMEOUT, exchange).await;
        response.ok().flatten().ok_or(WorkerUnresponsive)
    }

    /// The response to the query that `query` makes; `None` if the worker is gone.
    async fn respond<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> WorkerQuery) -> Option<T> {
        let (done, response) = oneshot::channel();
        self.queries.send(query(done)).await.ok()?;
        response.await.ok()
    }
}

/// A worker has not responded in time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a worker does not respond")]
pub struct WorkerUnresponsive;
