//! The record of an exchange: the facts that are shown and logged about it if it becomes a stream.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::auth::revocations::SubjectTag;
use crate::net::stream::Peer;
use crate::observe::access_log::{self, RequestFacts, SessionId, StreamFacts};
use crate::observe::recorder::Recorder;
use crate::observe::series::{EndpointSeries, ListenerSeries};
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::target::Target;
use crate::streams::exchange::{FinishedStream, StreamOwner};
use crate::upstream::endpoint::EndpointState;

/// The facts about an exchange. Its series is looked up only if it becomes a stream, or is asked for: most exchanges
/// are over by then.
#[derive(Debug)]
pub struct StreamRecord {
    /// The session.
    pub session: SessionId,
    /// The client.
    pub client: Peer,
    /// The protocol that it speaks.
    pub protocol: ClientProtocol,
    /// The requested host and path, without the query, which may contain secrets.
    pub target: Box<str>,
    /// The hash of the client's subject, if one was established.
    pub subject: Option<NonZeroU64>,
    /// When the request head had been received.
    pub started: Instant,
    listener: Arc<ListenerSeries>,
    route: Arc<str>,
    recorder: Rc<Recorder>,
    endpoint: RefCell<Option<Arc<EndpointState>>>,
    /// The series in which it counts as a stream.
    counted: RefCell<Option<Arc<EndpointSeries>>>,
}

impl StreamRecord {
    /// The record of a request to `target` on the route of this name.
    pub(super) fn new(
        recorder: &Rc<Recorder>,
        facts: &RequestFacts<'_>,
        listener: &Arc<ListenerSeries>,
        route: &Arc<str>,
        target: &Target,
    ) -> Self {
        Self {
            session: facts.session,
            client: facts.client,
            protocol: facts.protocol,
            target: [target.host(), target.path()].concat().into(),
            subject: None,
            started: facts.started,
            listener: Arc::clone(listener),
            route: Arc::clone(route),
            recorder: Rc::clone(recorder),
            endpoint: RefCell::default(),
            counted: RefCell::default(),
        }
    }

    /// The same, for a client with this identity.
    pub(super) fn of_subject(self, subject: Option<SubjectTag>) -> Self {
        let subject = subject.map(SubjectTag::get);
        Self { subject, ..self }
    }

    /// Notes the endpoint that is asked now.
    pub(super) fn lead_to(&self, endpoint: &Arc<EndpointState>) {
        self.endpoint.replace(Some(Arc::clone(endpoint)));
        let counted = self.counted.take();
        if let Some(before) = counted {
            access_log::stream_closed(&self.recorder, &before);
            self.became_stream();
        }
    }

    /// The listener, route, upstream and endpoint; `None` before an endpoint was chosen.
    pub fn series(&self) -> Option<Arc<EndpointSeries>> {
        if let Some(counted) = &*self.counted.borrow() {
            return Some(Arc::clone(counted));
        }
        let endpoint = self.endpoint.borrow();
        Some(
            self.listener
                .route(&self.route)
                .endpoint(endpoint.as_ref()?),
        )
    }

    /// The requested host.
    pub fn host(&self) -> &str {
        let slash = self.target.find('/').unwrap_or(self.target.len());
        self.target.get(..slash).unwrap_or_default()
    }
}

impl StreamOwner for StreamRecord {
    fn became_stream(&self) {
        if let Some(series) = self.series() {
            access_log::stream_began(&self.recorder, &series);
            self.counted.replace(Some(series));
        }
    }

    fn stream_ended(&self, finished: FinishedStream) {
        let Some(series) = self.series() else {
            return;
        };
        if self.counted.take().is_some() {
            access_log::stream_closed(&self.recorder, &series);
        }
        let facts = StreamFacts {
            session: self.session,
            client: self.client,
            protocol: self.protocol,
            series: &series,
            started: self.started,
        };
        access_log::stream_ended(&self.recorder, facts, finished);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::exchange::Exchange;

    #[test]
    fn an_exchange_is_small() {
        // docs/threat-model.md has what it takes with the table, the target and the parts that are shared.
        let size = size_of::<Exchange<StreamRecord>>();
        assert!(size <= 352, "{size} bytes");
    }
}
