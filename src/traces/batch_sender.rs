//! Sends spans in batches, one request at a time, until it is stopped.
//!
//! A batch is dropped after a number of attempts: one that never arrives must not keep those behind it for ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::collector::SpanCollector;
use super::delivery::Delivery;
use super::otlp::{self, PartialSuccess};
use super::queue::{MAX_BATCH, SpanQueue};
use super::span::{Attributes, FinishedSpan};
use crate::https_client::{HttpsClientError, backoff};
use crate::quota::failure_reports::{FailureReports, warn_once_a_minute};

/// How long a first span waits for others, at most.
const BATCH_INTERVAL: Duration = Duration::from_secs(2);

/// How often a batch is sent, at most. With the pauses in between, a collector may be away for a minute.
const MAX_ATTEMPTS: u32 = 8;

/// Sends batches until it is stopped.
pub(super) struct BatchSender<C> {
    collector: C,
    queue: Arc<SpanQueue>,
    resource: Attributes,
    reports: FailureReports,
    /// The batch that is sent next, at the end, and before it the rest of those that were too large.
    batches: Vec<Vec<FinishedSpan>>,
    /// How often the next batch was sent.
    attempts: u32,
    /// How often in a row the collector has not accepted what it may accept later.
    failures: u32,
}

impl<C: SpanCollector> BatchSender<C> {
    /// Sends the spans in `queue`, which are those of the service that `resource` describes.
    pub(super) fn new(collector: C, queue: &Arc<SpanQueue>, resource: Attributes) -> Self {
        Self {
            collector,
            queue: Arc::clone(queue),
            resource,
            reports: FailureReports::default(),
            batches: Vec::new(),
            attempts: 0,
            failures: 0,
        }
    }

    /// Sends until `stop` is gone. If it says that another one sends then, that one gets what is left; otherwise it is
    /// sent before the end.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        while !is_stopped(&stop) {
            if self.batches.is_empty() {
                wait_for_batch(&self.queue, &mut stop).await;
                if is_stopped(&stop) {
                    break;
                }
                self.take();
            }
            let delivery = match self.failures {
                // What is under way is not broken off: the spans would arrive twice.
                0 => self.deliver().await,
                // But a collector that has failed may have stopped responding.
                _ => tokio::select! {
                    delivery = self.deliver() => delivery,
                    () = stopped(&mut stop) => break,
                },
            };
            if let Some(pause) = self.settle(delivery) {
                let _ = timeout(pause, stopped(&mut stop)).await;
            }
        }
        if *stop.borrow() {
            // The first in line is put back last.
            for batch in self.batches {
                self.queue.put_back(batch);
            }
        } else {
            self.send_rest().await;
        }
    }

    /// Sends everything that waits, once, as long as the collector accepts it.
    async fn send_rest(mut self) {
        while self.failures == 0 {
            self.take();
            if self.batches.is_empty() {
                return;
            }
            let delivery = self.deliver().await;
            self.settle(delivery);
        }
        self.take();
        while !self.batches.is_empty() {
            self.drop_batch();
            self.take();
        }
    }

    /// Takes the next batch from the queue, unless there is one already.
    fn take(&mut self) {
        if self.batches.is_empty() {
            let batch = self.queue.take();
            self.batches.extend((!batch.is_empty()).then_some(batch));
        }
    }

    /// Sends the next batch; `None` if there is none.
    async fn deliver(&mut self) -> Option<Delivery> {
        let batch = self.batches.last()?;
        let body = Bytes::from(otlp::request(&self.resource, batch));
        let result = self.collector.send(body).await;
        match &result {
            Ok(response) if response.status().is_success() => {}
            // The client has reported that by itself.
            Ok(response) if response.status().is_server_error() => {}
            Ok(response) => {
                self.warn(&format!(
                    "the collector responds with {}",
                    response.status()
                ));
            }
            // The client reports errors, too, but for those that keep it from asking at all.
            Err(error @ (HttpsClientError::Settings(_) | HttpsClientError::Url(_))) => {
                self.warn(&error.to_string());
            }
            Err(_) => {}
        }
        Some(Delivery::of(&result, SystemTime::now()))
    }

    /// Does with the batch what its delivery asks for. Returns how long to pause then.
    fn settle(&mut self, delivery: Option<Delivery>) -> Option<Duration> {
        match delivery? {
            Delivery::Accepted(partial) => {
                self.failures = 0;
                let spans = self.end_batch();
                self.count_accepted(spans, partial);
                None
            }
            Delivery::Refused => {
                self.failures = 0;
                self.reject_batch();
                None
            }
            Delivery::TooLarge => self.halve_batch(),
            Delivery::Later(wait) => {
                self.attempts += 1;
                if self.attempts == MAX_ATTEMPTS {
                    self.warn(
                        "the spans of a request are dropped after the last of several attempts",
                    );
                    self.drop_batch();
                }
                Some(self.pause().max(wait))
            }
        }
    }

    /// Sends the two halves of the next batch one after the other. A single span is given up.
    fn halve_batch(&mut self) -> Option<Duration> {
        let mut batch = self.batches.pop()?;
        if batch.len() > 1 {
            let second = batch.split_off(batch.len().div_ceil(2));
            self.batches.extend([second, batch]);
            return None;
        }
        self.batches.push(batch);
        self.reject_batch();
        // A collector to which every request is too large must not get one for each span without a pause.
        Some(self.pause())
    }

    /// The pause after one more failure in a row.
    fn pause(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        backoff(self.failures).mul_f64(1.0 - fastrand::f64() / 2.0)
    }

    /// Forgets the batch. Returns how many spans it had.
    fn end_batch(&mut self) -> u64 {
        self.attempts = 0;
        self.batches.pop().map_or(0, |batch| batch.len() as u64)
    }

    fn drop_batch(&mut self) {
        let spans = self.end_batch();
        self.queue.count_dropped(spans);
    }

    fn reject_batch(&mut self) {
        let spans = self.end_batch();
        self.queue.rejected.fetch_add(spans, Ordering::Relaxed);
    }

    fn count_accepted(&self, spans: u64, partial: Option<PartialSuccess>) {
        let rejected = partial.as_ref().map_or(0, |it| it.rejected.min(spans));
        self.queue.rejected.fetch_add(rejected, Ordering::Relaxed);
        let exported = spans - rejected;
        self.queue.exported.fetch_add(exported, Ordering::Relaxed);
        match partial {
            Some(PartialSuccess { message, .. }) if rejected > 0 => {
                self.warn(&format!("the collector has rejected spans: {message}"));
            }
            Some(PartialSuccess { message, .. }) => {
                self.warn(&format!("the collector warns: {message}"));
            }
            None => {}
        }
    }

    fn warn(&self, error: &str) {
        warn_once_a_minute!(self.reports, error, "spans not accepted", error);
    }
}

/// Waits for spans; then, for a while, for more of them.
async fn wait_for_batch(queue: &SpanQueue, stop: &mut watch::Receiver<bool>) {
    while queue.waiting() == 0 {
        tokio::select! {
            () = queue.arrived() => {}
            () = stopped(stop) => return,
        }
    }
    let mut interval = std::pin::pin!(sleep(BATCH_INTERVAL));
    while queue.waiting() < MAX_BATCH {
        tokio::select! {
            () = queue.arrived() => {}
            () = &mut interval => return,
            () = stopped(stop) => return,
        }
    }
}

/// Waits until the sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    while stop.changed().await.is_ok() {}
}

fn is_stopped(stop: &watch::Receiver<bool>) -> bool {
    stop.has_changed().is_err()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::Response;
    use http::header::RETRY_AFTER;
    use serde_json::Value;
    use tokio::time::Instant;

    use super::*;
    use crate::traces::queue::tests::span;

    /// What a collector got: when, and the names of the spans.
    type Requests = Arc<Mutex<Vec<(Duration, Vec<String>)>>>;

    /// A response, an error, or neither.
    enum Answer {
        Response(Response<Bytes>),
        Reset,
        Silence,
    }

    fn status(status: u16) -> Answer {
        with(Response::builder().status(status), "")
    }

    fn with(response: http::response::Builder, body: &'static str) -> Answer {
        Answer::Response(response.body(Bytes::from(body)).unwrap())
    }

    /// Answers the requests by their number, beginning with 1, and their spans.
    struct ScriptedCollector<F> {
        answer: F,
        requests: Requests,
        start: Instant,
    }

    impl<F: Fn(usize, &[String]) -> Answer + Send> SpanCollector for ScriptedCollector<F> {
        async fn send(&mut self, body: Bytes) -> Result<Response<Bytes>, HttpsClientError> {
            let request: Value = serde_json::from_slice(&body).unwrap();
            let spans = &request["resourceSpans"][0]["scopeSpans"][0]["spans"];
            let names = spans.as_array().unwrap().iter();
            let names: Vec<_> = names
                .map(|it| it["name"].as_str().unwrap().to_owned())
                .collect();
            let number = {
                let mut requests = self.requests.lock().unwrap();
                requests.push((self.start.elapsed(), names.clone()));
                requests.len()
            };
            match (self.answer)(number, &names) {
                Answer::Response(response) => Ok(response),
                Answer::Reset => Err(HttpsClientError::Exchange {
                    host: "collector".into(),
                    error: "reset".into(),
                }),
                Answer::Silence => std::future::pending().await,
            }
        }
    }

    /// A sender that works, and what it works with.
    struct Sending {
        queue: Arc<SpanQueue>,
        requests: Requests,
        stop: watch::Sender<bool>,
        task: tokio::task::JoinHandle<()>,
    }

    impl Sending {
        /// Sends these numbers of spans, with these names, to a collector that answers like this.
        fn begin(
            spans: &[(&str, usize)],
            answer: impl Fn(usize, &[String]) -> Answer + Send + 'static,
        ) -> Self {
            let (queue, requests) = (Arc::<SpanQueue>::default(), Requests::default());
            queue.set_open(true);
            for (name, count) in spans {
                (0..*count).for_each(|_| queue.push(span(name)));
            }
            let collector = ScriptedCollector {
                answer,
                requests: Arc::clone(&requests),
                start: Instant::now(),
            };
            let (stop, stopped) = watch::channel(false);
            let sender = BatchSender::new(collector, &queue, Attributes::default());
            let task = tokio::runtime::Handle::current().spawn(sender.run(stopped));
            Self {
                queue,
                requests,
                stop,
                task,
            }
        }

        /// Waits until as many spans have been dealt with.
        async fn until(&self, exported: u64, dropped: u64, rejected: u64) {
            let expected = [exported, dropped, rejected];
            let all = async {
                while self.results() != expected {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            let day = Duration::from_secs(86_400);
            let waited = timeout(day, all).await;
            assert!(waited.is_ok(), "{:?}, not {expected:?}", self.results());
        }

        fn results(&self) -> [u64; 3] {
            self.queue.results().map(|(_, count)| count)
        }

        /// When the requests came, and the number of their spans.
        fn requests(&self) -> Vec<(Duration, usize)> {
            let requests = self.requests.lock().unwrap();
            requests
                .iter()
                .map(|(at, names)| (*at, names.len()))
                .collect()
        }

        fn lengths(&self) -> Vec<usize> {
            self.requests()
                .into_iter()
                .map(|(_, spans)| spans)
                .collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_never_arrives_does_not_keep_the_next_one() {
        let it = Sending::begin(&[("bad", MAX_BATCH), ("good", 3)], |_, names| {
            match names[0].as_str() {
                "bad" => Answer::Reset,
                _ => status(200),
            }
        });
        it.until(3, MAX_BATCH as u64, 0).await;
        let mut expected = vec![MAX_BATCH; MAX_ATTEMPTS as usize];
        expected.push(3);
        assert_eq!(it.lengths(), expected);
        let (last, _) = it.requests()[MAX_ATTEMPTS as usize - 1];
        assert!((60..130).contains(&last.as_secs()), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_is_asked_again_when_it_wants() {
        for (wait, least, most) in [("90", 90.0, 90.1), ("0", 0.5, 1.1), ("x", 0.5, 1.1)] {
            let it = Sending::begin(&[("a", 1)], move |number, _| match number {
                1 => with(
                    Response::builder().status(503).header(RETRY_AFTER, wait),
                    "",
                ),
                _ => status(200),
            });
            it.until(1, 0, 0).await;
            let [(first, 1), (second, 1)] = it.requests()[..] else {
                panic!("{:?}", it.requests());
            };
            let pause = (second - first).as_secs_f64();
            assert!((least..most).contains(&pause), "{wait}: {pause}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_too_large_is_halved() {
        let it = Sending::begin(&[("a", MAX_BATCH)], |_, names| {
            status(if names.len() > 200 { 413 } else { 200 })
        });
        it.until(MAX_BATCH as u64, 0, 0).await;
        assert_eq!(it.lengths(), [512, 256, 128, 128, 256, 128, 128]);

        // One of them is too large by itself.
        let it = Sending::begin(&[("a", 2), ("large", 1), ("b", 2)], |_, names| {
            let is_large = names.iter().any(|name| name == "large");
            status(if is_large { 413 } else { 200 })
        });
        it.until(4, 0, 1).await;
        assert_eq!(it.lengths(), [5, 3, 2, 1, 2]);

        // All are: it is not asked for each of them at once.
        let it = Sending::begin(&[("a", 4)], |_, _| status(413));
        it.until(0, 0, 4).await;
        let (last, _) = it.requests().pop().unwrap();
        assert!(last > BATCH_INTERVAL + Duration::from_secs(3), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_sent_again_and_a_part_of_it_is_counted() {
        let it = Sending::begin(&[("a", 3)], |_, _| status(500));
        it.until(0, 0, 3).await;
        assert_eq!(it.lengths(), [3]);
        let it = Sending::begin(&[("a", 3)], |_, _| {
            let body = r#"{"partialSuccess":{"rejectedSpans":"2"}}"#;
            with(Response::builder(), body)
        });
        it.until(1, 0, 2).await;
        assert_eq!(it.lengths(), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_at_the_end_is_sent_unless_the_collector_has_failed_last() {
        let all = 2 * MAX_BATCH as u64 + 1;
        let spans = [("a", 2 * MAX_BATCH + 1)];
        let it = Sending::begin(&spans, |_, _| status(200));
        drop(it.stop);
        it.task.await.unwrap();
        assert_eq!(it.queue.results()[0].1, all);

        // It has failed, or fails then: not a further request.
        for requests in [1, 2] {
            let it = Sending::begin(&spans, move |number, _| match number {
                _ if number == requests => Answer::Reset,
                _ => status(200),
            });
            until_requests(&it, requests).await;
            drop(it.stop);
            it.task.await.unwrap();
            let [exported, dropped, _] = it.queue.results().map(|(_, count)| count);
            assert_eq!(exported + dropped, all);
            assert_eq!(it.requests.lock().unwrap().len(), requests);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_has_failed_is_not_waited_for_at_the_end() {
        let it = Sending::begin(&[("a", 1)], |number, _| match number {
            1 => Answer::Reset,
            _ => Answer::Silence,
        });
        until_requests(&it, 2).await;
        drop(it.stop);
        it.task.await.unwrap();
        assert_eq!(it.queue.results()[1], ("dropped", 1));
    }

    async fn until_requests(it: &Sending, count: usize) {
        while it.requests.lock().unwrap().len() < count {
            sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_sender_gets_what_is_left_in_order() {
        let it = Sending::begin(&[("a", 1), ("b", 1), ("c", 1)], |number, names| {
            match (number, names.len()) {
                (1, _) => status(413),
                _ => Answer::Reset,
            }
        });
        until_requests(&it, 2).await;
        it.stop.send_replace(true);
        drop(it.stop);
        it.task.await.unwrap();
        let left = it.queue.take();
        let names: Vec<_> = left.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(it.queue.results().map(|(_, count)| count), [0, 0, 0]);
    }
}
