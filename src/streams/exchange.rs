//! The state of one exchange that its session, the body of its response and its worker's table share.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::STREAM_AGE;
use super::ended::StreamEnded;
use crate::config::model::StreamLimits;
use crate::tunnel::ended::Ended;
use crate::tunnel::liveness::Micros;
use crate::upstream::http::UploadProgress;

/// Sweeps for which an event stream may go on after its end was decided: until the event under way has ended.
/// After that it is broken off.
const SWEEPS_TO_FINISH: u8 = 3;

/// The record of an exchange, which learns what becomes of it.
pub trait StreamOwner {
    /// The exchange has lasted long enough to be a stream.
    fn became_stream(&self);

    /// The stream has ended.
    fn stream_ended(&self, finished: FinishedStream);
}

impl StreamOwner for () {
    fn became_stream(&self) {}

    fn stream_ended(&self, _finished: FinishedStream) {}
}

/// How a stream ended, and what it has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedStream {
    /// The reason.
    pub ended: StreamEnded,
    /// Whether it had become a stream. Otherwise it was ended before that.
    pub was_stream: bool,
    /// The status code of the endpoint's response, if one has come.
    pub status: Option<u16>,
    /// Bytes of the request's body.
    pub bytes_from_client: u64,
    /// Bytes of the response's body.
    pub bytes_from_endpoint: u64,
    /// For how long no byte had come from either side. Accurate to a second.
    pub quiet: Duration,
}

/// How far an exchange has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeStage {
    /// No endpoint has been asked.
    Unsent,
    /// The endpoint has not responded yet.
    Asked,
    /// The response is an event stream, which may be ended between two events.
    EventStream,
    /// The response is of another kind.
    Response,
}

/// One exchange: a request, and its response.
pub struct Exchange<O> {
    /// Whose it is.
    pub owner: O,
    limits: StreamLimits,
    /// When it began, on the clock of the table.
    began: Micros,
    /// When it reaches its maximum age, on the clock of the table.
    deadline: Option<Micros>,
    upload: OnceCell<Rc<UploadProgress>>,
    bytes_from_endpoint: Cell<u64>,
    stage: Cell<ExchangeStage>,
    status: Cell<u16>,
    /// The longest time between two pieces of the response.
    body_limit: Cell<Option<Duration>>,
    /// Whether the next piece has to come from the endpoint. Otherwise the client accepts no more.
    awaits_endpoint: Cell<bool>,
    /// The bytes in both directions at the last sweep that saw them change, and the time of that sweep.
    seen: Cell<(u64, Micros)>,
    /// The first sweep that has found the endpoint silent since its last piece, and the bytes of the request's body then.
    silent_since: Cell<Option<(Micros, u64)>>,
    is_stream: Cell<bool>,
    /// How it ended by itself.
    outcome: Cell<Option<StreamEnded>>,
    /// The reason with which it is to end, once there is one. The first one stands, unless the second is in a
    /// hurry.
    verdict: Cell<Option<StreamEnded>>,
    /// Sweeps that have passed since the verdict.
    overdue: Cell<u8>,
    waker: Cell<Option<Waker>>,
}

impl<O: fmt::Debug> fmt::Debug for Exchange<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("owner", &self.owner)
            .field("stage", &self.stage)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl<O> Exchange<O> {
    pub(super) fn new(owner: O, limits: StreamLimits, now: Micros) -> Self {
        let age = limits.max_age.map(|age| age.of(fastrand::f64()));
        Self {
            owner,
            limits,
            began: now,
            deadline: age.map(|age| now.saturating_add(micros(age))),
            upload: OnceCell::new(),
            bytes_from_endpoint: Cell::new(0),
            stage: Cell::new(ExchangeStage::Unsent),
            status: Cell::new(0),
            body_limit: Cell::new(None),
            awaits_endpoint: Cell::new(false),
            seen: Cell::new((0, now)),
            silent_since: Cell::new(None),
            is_stream: Cell::new(false),
            outcome: Cell::new(None),
            verdict: Cell::new(None),
            overdue: Cell::new(0),
            waker: Cell::default(),
        }
    }

    /// Notes where the body of the request is counted.
    pub fn set_upload(&self, upload: &Rc<UploadProgress>) {
        let _ = self.upload.set(Rc::clone(upload));
    }

    /// Notes that the request goes to an endpoint, whose response may pause for at most `body_limit`.
    pub fn asked(&self, body_limit: Option<Duration>) {
        self.stage.set(ExchangeStage::Asked);
        self.body_limit.set(body_limit);
    }

    /// Notes that the endpoint has responded.
    pub(super) fn responded(&self, status: u16, is_event_stream: bool) {
        self.status.set(status);
        self.stage.set(match is_event_stream {
            true => ExchangeStage::EventStream,
            false => ExchangeStage::Response,
        });
    }

    /// How far it has come.
    pub fn stage(&self) -> ExchangeStage {
        self.stage.get()
    }

    /// Whether the response is an event stream: it lasts, however old it is.
    pub fn is_event_stream(&self) -> bool {
        self.stage.get() == ExchangeStage::EventStream
    }

    /// Whether it has lasted long enough to be a stream.
    pub fn is_stream(&self) -> bool {
        self.is_stream.get()
    }

    /// Bytes of the request's body.
    pub fn bytes_from_client(&self) -> u64 {
        self.upload.get().map_or(0, |upload| upload.arrived())
    }

    /// Bytes of the response's body.
    pub fn bytes_from_endpoint(&self) -> u64 {
        self.bytes_from_endpoint.get()
    }

    /// Counts a piece of the response.
    pub(super) fn count(&self, bytes: usize) {
        let counted = self.bytes_from_endpoint.get();
        self.bytes_from_endpoint.set(counted + bytes as u64);
        self.awaits_endpoint.set(false);
        self.silent_since.set(None);
    }

    /// Notes that the next piece has to come from the endpoint.
    pub(super) fn awaits_endpoint(&self) {
        self.awaits_endpoint.set(true);
    }

    /// The reason with which the exchange has to end, if it has to.
    pub fn verdict(&self) -> Option<StreamEnded> {
        self.verdict.get()
    }

    /// Whether the body of the response has to be broken off now, also if the client accepts no more of it: an
    /// event stream only after the time in which its event could have ended.
    pub fn is_broken_off(&self) -> bool {
        match (self.verdict.get(), self.stage.get()) {
            (None, _) => false,
            (Some(StreamEnded::Forced(_)), ExchangeStage::EventStream) => self.is_overdue(),
            (Some(_), stage) => {
                matches!(stage, ExchangeStage::EventStream | ExchangeStage::Response)
            }
        }
    }

    /// Whether the time is over in which an event could have ended.
    fn is_overdue(&self) -> bool {
        self.overdue.get() >= SWEEPS_TO_FINISH
    }

    /// Waits for the verdict.
    pub async fn verdict_reached(&self) -> StreamEnded {
        std::future::poll_fn(|cx: &mut Context<'_>| match self.verdict.get() {
            Some(verdict) => Poll::Ready(verdict),
            None => {
                self.set_waker(cx.waker());
                Poll::Pending
            }
        })
        .await
    }

    /// Notes how the exchange ended by itself. The first reason stands.
    pub fn set_outcome(&self, outcome: StreamEnded) {
        if self.outcome.get().is_none() {
            self.outcome.set(Some(outcome));
        }
    }

    /// Notes that tidegate has answered in place of the endpoint.
    pub fn rejected(&self) {
        self.set_outcome(self.verdict.get().unwrap_or(StreamEnded::Rejected));
    }

    /// Ends the exchange for this reason, unless it already has one. Returns whether it does.
    pub(super) fn end(&self, reason: StreamEnded) -> bool {
        let in_hurry = |first, reason| match (first, reason) {
            (StreamEnded::Forced(first), StreamEnded::Forced(reason)) => first.gives_way_to(reason),
            _ => false,
        };
        let verdict = self.verdict.get();
        let ends =
            self.outcome.get().is_none() && verdict.is_none_or(|first| in_hurry(first, reason));
        if ends {
            self.verdict.set(Some(reason));
            self.wake();
        }
        ends
    }

    /// Gives the exchange no more time for an orderly end.
    pub(super) fn cut_off(&self) {
        self.overdue.set(SWEEPS_TO_FINISH);
        self.wake();
    }

    /// Sets the task to wake when there is a verdict.
    pub(super) fn set_waker(&self, waker: &Waker) {
        // Cloning a waker counts references, and this runs with every poll: keep the one there is.
        let current = self.waker.take();
        let current = current.filter(|current| current.will_wake(waker));
        self.waker
            .set(Some(current.unwrap_or_else(|| waker.clone())));
    }

    fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = &waker {
            waker.wake_by_ref();
        }
        // A task whose client accepts no more does not poll the body: it must be woken again.
        self.waker.set(waker);
    }

    /// For how long nothing has come from either side. Accurate to a sweep, which is what notices.
    pub(super) fn quiet(&self, now: Micros) -> Duration {
        let (seen, since) = self.seen.get();
        match self.moved() == seen {
            true => Duration::from_micros(now.saturating_sub(since)),
            false => Duration::ZERO,
        }
    }

    fn moved(&self) -> u64 {
        self.bytes_from_client() + self.bytes_from_endpoint.get()
    }

    pub(super) fn finished(&self, now: Micros) -> FinishedStream {
        let outcome = self.outcome.get().or(self.verdict.get());
        let status = self.status.get();
        FinishedStream {
            // Dropped without a reason: its connection is gone.
            ended: outcome.unwrap_or(StreamEnded::ClientLeft),
            was_stream: self.is_stream(),
            status: (status > 0).then_some(status),
            bytes_from_client: self.bytes_from_client(),
            bytes_from_endpoint: self.bytes_from_endpoint(),
            quiet: self.quiet(now),
        }
    }
}

impl<O: StreamOwner> Exchange<O> {
    /// Ends the exchange if a limit has passed. One that has reached [`STREAM_AGE`] is a stream from now on.
    pub(super) fn sweep(&self, now: Micros) {
        let quiet = self.note_activity(now);
        if self.verdict.get().is_some() {
            self.overdue.set(self.overdue.get().saturating_add(1));
            if self.is_overdue() {
                self.wake();
            }
            return;
        }
        if self.has_silent_endpoint(now) {
            self.end(StreamEnded::BodyTimeout);
        }
        if !self.is_stream.get() {
            let age = now.saturating_sub(self.began);
            if self.stage.get() == ExchangeStage::Unsent || age < micros(STREAM_AGE) {
                return;
            }
            self.is_stream.set(true);
            self.owner.became_stream();
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.end(StreamEnded::Forced(Ended::MaxAge));
        } else if self.limits.idle.is_some_and(|limit| quiet >= limit) {
            self.end(StreamEnded::Forced(Ended::Idle));
        }
    }

    /// Notes activity since the last call. Returns for how long there has been none.
    fn note_activity(&self, now: Micros) -> Duration {
        let quiet = self.quiet(now);
        if quiet.is_zero() {
            self.seen.set((self.moved(), now));
        }
        quiet
    }

    /// Whether the endpoint has been silent for too long in the middle of its response. As long as the client is still
    /// sending its request, there may be nothing to respond yet.
    fn has_silent_endpoint(&self, now: Micros) -> bool {
        let limit = self.body_limit.get().filter(|_| self.awaits_endpoint.get());
        let Some(limit) = limit else {
            return false;
        };
        let arrived = self.bytes_from_client();
        let awaits_client = self.upload.get().is_some_and(|upload| upload.is_waiting());
        let silent_since = self.silent_since.get();
        let silent_since = silent_since.filter(|(_, before)| *before == arrived && !awaits_client);
        let (since, _) = silent_since.unwrap_or((now, arrived));
        self.silent_since.set(Some((since, arrived)));
        now.saturating_sub(since) >= micros(limit)
    }
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX)
}
