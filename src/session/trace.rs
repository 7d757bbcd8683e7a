//! The trace that a request is part of (W3C Trace Context).

use ::http::{HeaderMap, HeaderValue};

use crate::config::model::Traceparent;
use crate::protocol::trace_context::TraceId;

/// The trace that a request is part of.
pub(super) struct Trace {
    pub(super) id: Option<TraceId>,
    /// The `traceparent` field for the endpoint, if the trace begins here.
    pub(super) parent: Option<HeaderValue>,
}

impl Trace {
    pub(super) fn of(headers: &HeaderMap, traceparent: Traceparent) -> Self {
        let id = TraceId::of(headers);
        if id.is_some() || traceparent == Traceparent::Pass {
            return Self { id, parent: None };
        }
        let mut random = [0; 24];
        // A request is worth more than its trace: without random bytes it goes on without one.
        let made = aws_lc_rs::rand::fill(&mut random).ok();
        let made = made.and_then(|()| TraceId::generate(random));
        let (id, parent) = made.unzip();
        Self { id, parent }
    }
}
