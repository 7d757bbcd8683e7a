//! Finished spans on their way to the collector: a queue with a bound.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::span::FinishedSpan;

/// Spans that wait, at most: about eight megabytes, or twenty if all their texts are long. Further ones are dropped.
pub const MAX_WAITING: usize = 4096;

/// Spans of one request to the collector, at most.
pub const MAX_BATCH: usize = 512;

/// Finished spans, shared by all workers.
//
// A lock, but only for as long as it takes to move a span: once per sampled handshake and per end of a sampled
// tunnel.
#[derive(Debug, Default)]
pub struct SpanQueue {
    waiting: Mutex<VecDeque<FinishedSpan>>,
    /// Whether someone takes spans out.
    is_open: AtomicBool,
    /// Notified when a first span waits, and when there are enough for a batch.
    arrived: Notify,
    pub(super) exported: AtomicU64,
    dropped: AtomicU64,
    pub(super) rejected: AtomicU64,
}

impl SpanQueue {
    /// Adds a span, or drops it if too many wait already.
    pub fn push(&self, span: FinishedSpan) {
        if !self.is_open.load(Ordering::Relaxed) {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            drop(waiting);
            self.count_dropped(1);
            return;
        }
        waiting.push_back(span);
        let length = waiting.len();
        drop(waiting);
        if length == 1 || length == MAX_BATCH {
            self.arrived.notify_one();
        }
    }

    /// Whether spans are taken out. Those that come otherwise are dropped, and do not count.
    pub(super) fn set_open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Takes the oldest spans out, a batch at most.
    pub(super) fn take(&self) -> Vec<FinishedSpan> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(MAX_BATCH);
        let batch = waiting.drain(..count).collect();
        if waiting.is_empty() {
            waiting.shrink_to(MAX_BATCH);
        }
        batch
    }

    /// Puts spans back that were taken out and not sent; those that have no room any more are dropped.
    pub(super) fn put_back(&self, batch: Vec<FinishedSpan>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_WAITING.saturating_sub(waiting.len());
        let dropped = batch.len().saturating_sub(room);
        for span in batch.into_iter().skip(dropped).rev() {
            waiting.push_front(span);
        }
        drop(waiting);
        self.count_dropped(dropped as u64);
        self.arrived.notify_one();
    }

    /// The number of spans that wait.
    pub fn waiting(&self) -> usize {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.len()
    }

    /// Waits for a first span, or for a batch.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    pub(super) fn count_dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    /// Spans by what became of them: the value in metrics, and the number.
    pub fn results(&self) -> [(&'static str, u64); 3] {
        [
            ("exported", &self.exported),
            ("dropped", &self.dropped),
            ("rejected", &self.rejected),
        ]
        .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
impl SpanQueue {
    /// A queue out of which [`taken`](Self::taken) takes spans.
    pub(crate) fn opened() -> Self {
        let queue = Self::default();
        queue.set_open(true);
        queue
    }

    pub(crate) fn taken(&self) -> Vec<FinishedSpan> {
        self.take()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::trace_context::TraceContext;
    use crate::traces::span::{Attributes, SpanIds, SpanKind};
    use std::time::SystemTime;

    pub(in crate::traces) fn span(name: &str) -> FinishedSpan {
        let TraceContext { trace, span, .. } = TraceContext::generate([7; 24]);
        FinishedSpan {
            ids: SpanIds {
                trace,
                span,
                parent: None,
            },
            is_parent_remote: false,
            kind: SpanKind::Server,
            name: name.to_owned(),
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            attributes: Attributes::default(),
            has_failed: false,
        }
    }

    #[test]
    fn a_full_queue_drops_what_comes_and_counts_it() {
        let queue = SpanQueue::default();
        queue.push(span("the queue is closed"));
        assert_eq!(queue.waiting(), 0);
        queue.set_open(true);
        for number in 0..MAX_WAITING + 3 {
            queue.push(span(&number.to_string()));
        }
        assert_eq!(queue.waiting(), MAX_WAITING);
        assert_eq!(queue.results()[1], ("dropped", 3));
        let batch = queue.take();
        assert_eq!((batch.len(), &*batch[0].name), (MAX_BATCH, "0"));
        queue.set_open(false);
        queue.push(span("the queue is closed again"));
        let left = MAX_WAITING - MAX_BATCH;
        assert_eq!(queue.waiting(), left, "what waits is still sent");
    }

    #[test]
    fn what_was_not_sent_is_first_in_line_again() {
        let queue = SpanQueue::default();
        queue.set_open(true);
        for number in 0..MAX_WAITING {
            queue.push(span(&number.to_string()));
        }
        let batch = queue.take();
        queue.push(span("a later one"));
        queue.put_back(batch);
        assert_eq!(queue.waiting(), MAX_WAITING);
        assert_eq!(queue.results()[1], ("dropped", 1));
        assert_eq!(&*queue.take()[0].name, "1");
    }
}
