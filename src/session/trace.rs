//! The trace that a request is part of (W3C Trace Context), and whether its handshake is sampled.

use std::cell::{Cell, OnceCell};
use std::time::SystemTime;

use ::http::{HeaderMap, HeaderValue};

use crate::config::model::{DecidingCallers, Traceparent, TracesConfig};
use crate::observe::facts::{HandshakeSpan, PendingSpan};
use crate::protocol::trace_context::{TraceContext, TraceId};
use crate::traces::span::SpanIds;

/// The trace that a request is part of.
pub(super) struct Trace {
    /// The valid `traceparent` that the request came with.
    caller: Option<TraceContext>,
    /// The trace that begins here, because of `server.traceparent`.
    made: Cell<Option<TraceContext>>,
    /// The span of the handshake, if that is sampled.
    span: OnceCell<PendingSpan>,
    /// Whether a trusted proxy wants it.
    is_wanted: Cell<bool>,
    /// Whether it was given up.
    is_given_up: Cell<bool>,
}

/// What the decision about a handshake needs to know of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampledRequest {
    /// Whether it comes from a trusted proxy.
    pub(super) is_trusted: bool,
    /// Whether the client uses TLS.
    pub(super) is_secure: bool,
    /// The port that it names with its host.
    pub(super) port: Option<u16>,
}

/// The `traceparent` field for the endpoint.
pub(super) struct TraceField {
    pub(super) value: HeaderValue,
    /// Whether the trace begins here: no `tracestate` belongs to it.
    pub(super) is_new: bool,
}

impl Trace {
    pub(super) fn of(headers: &HeaderMap, traceparent: Traceparent) -> Self {
        let caller = TraceContext::of(headers);
        let makes = caller.is_none() && traceparent == Traceparent::Make;
        Self {
            caller,
            made: Cell::new(makes.then(new_trace).flatten()),
            span: OnceCell::new(),
            is_wanted: Cell::new(false),
            is_given_up: Cell::new(false),
        }
    }

    /// Decides whether the handshake is sampled.
    //
    // By a number of our own and not by the id of the trace, which strangers choose: they would have all that they
    // like sampled.
    pub(super) fn decide(&self, settings: &TracesConfig, request: SampledRequest) {
        let follows = match settings.parent {
            DecidingCallers::Any => true,
            DecidingCallers::Trusted => request.is_trusted,
            DecidingCallers::None => false,
        };
        let decided = self.caller.filter(|_| follows);
        let is_sampled = match decided {
            Some(caller) => caller.is_sampled,
            None => fastrand::f64() < settings.ratio,
        };
        let made = self.made.get();
        if !is_sampled {
            self.made.set(made.map(|it| TraceContext {
                is_sampled: false,
                ..it
            }));
        } else if let Some(new) = new_trace() {
            let continued = self.caller.or(made);
            let ids = SpanIds {
                trace: continued.map_or(new.trace, |it| it.trace),
                span: new.span,
                parent: self.caller.map(|it| it.span),
            };
            self.is_wanted.set(decided.is_some() && request.is_trusted);
            let _ = self.span.set(PendingSpan::new(HandshakeSpan {
                ids,
                began: SystemTime::now(),
                is_secure: request.is_secure,
                port: request.port,
            }));
        }
    }

    /// Gives the span of the handshake up, unless a trusted proxy wants it: a rate limit has rejected the handshake,
    /// and the spans of a flood must not displace others.
    pub(super) fn give_up(&self) {
        self.is_given_up.set(!self.is_wanted.get());
    }

    pub(super) fn id(&self) -> Option<TraceId> {
        let begun = self.span().map(|it| it.span.ids.trace);
        let known = self.caller.or(self.made.get());
        begun.or(known.map(|it| it.trace))
    }

    /// The span of the handshake, if that is sampled.
    pub(super) fn span(&self) -> Option<&PendingSpan> {
        self.span.get().filter(|_| !self.is_given_up.get())
    }

    /// The `traceparent` field for the endpoint, if it is another one than the request came with.
    pub(super) fn field(&self) -> Option<TraceField> {
        let own = self.span().map(|it| TraceContext {
            trace: it.span.ids.trace,
            span: it.span.ids.span,
            is_sampled: true,
        });
        Some(TraceField {
            value: own.or(self.made.get())?.field()?,
            is_new: self.caller.is_none(),
        })
    }
}

/// A new trace. A request is worth more than its trace: without random bytes it goes on without one.
fn new_trace() -> Option<TraceContext> {
    let mut random = [0; 24];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    Some(TraceContext::generate(random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::trace_context::TRACEPARENT;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn settings(parent: DecidingCallers, ratio: f64) -> TracesConfig {
        TracesConfig {
            url: "http://127.0.0.1:4318/v1/traces".parse().unwrap(),
            roots: None,
            ratio,
            parent,
            service_name: "tidegate".into(),
            headers: Vec::new(),
        }
    }

    fn decide(trace: &Trace, settings: &TracesConfig, is_trusted: bool) {
        let request = SampledRequest {
            is_trusted,
            is_secure: true,
            port: None,
        };
        trace.decide(settings, request);
    }

    /// A request with these flags of a caller, if it has one.
    fn request(flags: Option<&str>, mode: Traceparent) -> Trace {
        let field = flags.map(|flags| format!("00-{TRACE}-00f067aa0ba902b7-{flags}"));
        let field = field.map(|it| (TRACEPARENT, it.parse().unwrap()));
        Trace::of(&HeaderMap::from_iter(field), mode)
    }

    #[track_caller]
    fn check(caller: (Option<&str>, bool), settings: &TracesConfig, is_sampled: bool) {
        let (flags, is_trusted) = caller;
        let trace = request(flags, Traceparent::Pass);
        decide(&trace, settings, is_trusted);
        assert_eq!(
            trace.span().is_some(),
            is_sampled,
            "{caller:?} {settings:?}"
        );
        let Some(span) = trace.span() else {
            assert!(trace.field().is_none(), "the field goes on as it is");
            return;
        };
        let field = trace.field().unwrap();
        let span = span.span;
        let expected = format!("00-{}-{}-01", span.ids.trace, span.ids.span);
        assert_eq!(field.value, *expected);
        assert_eq!(field.is_new, flags.is_none());
        assert_eq!(span.ids.trace.to_string() == TRACE, flags.is_some());
        let parent = span.ids.parent.map(|it| it.to_string());
        assert_eq!(parent.as_deref(), flags.map(|_| "00f067aa0ba902b7"));
    }

    #[test]
    fn callers_decide_as_far_as_they_may_and_chance_does_otherwise() {
        use DecidingCallers::{Any, Trusted};
        const IGNORE: DecidingCallers = DecidingCallers::None;
        for ratio in [0.0, 1.0] {
            let by_ratio = ratio == 1.0;
            for (flags, sampled) in [(Some("01"), true), (Some("00"), false)] {
                for (parent, is_trusted, follows) in [
                    (Trusted, true, true),
                    (Trusted, false, false),
                    (Any, false, true),
                    (IGNORE, true, false),
                ] {
                    let expected = if follows { sampled } else { by_ratio };
                    check((flags, is_trusted), &settings(parent, ratio), expected);
                }
            }
            for is_trusted in [true, false] {
                check((None, is_trusted), &settings(Any, ratio), by_ratio);
            }
        }
    }

    #[test]
    fn what_a_rate_limit_rejects_has_a_span_only_if_a_trusted_proxy_wants_it() {
        use DecidingCallers::{Any, Trusted};
        const IGNORE: DecidingCallers = DecidingCallers::None;
        for (flags, parent, is_trusted, stays) in [
            (Some("01"), Trusted, true, true),
            (Some("01"), Any, true, true),
            (Some("01"), Any, false, false),
            (Some("01"), Trusted, false, false),
            (Some("01"), IGNORE, true, false),
            (None, Trusted, true, false),
        ] {
            let trace = request(flags, Traceparent::Pass);
            decide(&trace, &settings(parent, 1.0), is_trusted);
            assert!(trace.span().is_some());
            trace.give_up();
            let seen = (trace.span().is_some(), trace.id().is_some());
            let expected = (stays, flags.is_some());
            assert_eq!(seen, expected, "{flags:?} {parent:?} {is_trusted}");
        }
    }

    #[test]
    fn a_share_of_the_handshakes_is_sampled() {
        let settings = settings(DecidingCallers::Trusted, 0.25);
        let sampled = (0..10_000).filter(|_| {
            // Strangers choose the id of the trace, and change nothing by it.
            let trace = request(Some("01"), Traceparent::Pass);
            decide(&trace, &settings, false);
            trace.span().is_some()
        });
        // Ten standard deviations.
        let sampled = sampled.count();
        assert!((2067..2933).contains(&sampled), "{sampled}");
    }

    #[test]
    fn a_trace_that_begins_here_is_marked_as_it_is_sampled() {
        for (ratio, flags) in [(0.0, "-00"), (1.0, "-01")] {
            let trace = request(None, Traceparent::Make);
            let id = trace.id().unwrap();
            decide(&trace, &settings(DecidingCallers::Any, ratio), true);
            let TraceField { value, is_new } = trace.field().unwrap();
            let value = value.to_str().unwrap();
            assert!(is_new && value.ends_with(flags), "{value}");
            assert_eq!(&value[3..35], id.to_string());
            assert_eq!(trace.id(), Some(id));
        }
        let trace = request(None, Traceparent::Make);
        assert!(
            trace
                .field()
                .unwrap()
                .value
                .to_str()
                .unwrap()
                .ends_with("-01")
        );
    }
}
