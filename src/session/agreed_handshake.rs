//! A handshake that client and endpoint have agreed on, until the client has its 101.

use std::rc::Rc;
use std::time::Duration;

use crate::observe::access_log::{self, TunnelFacts, TunnelOpening};
use crate::observe::facts::HandshakeSpan;
use crate::observe::recorder::Recorder;
use crate::protocol::client_protocol::ClientProtocol;
use crate::protocol::trace_context::TraceId;

/// A handshake whose endpoint has agreed to a tunnel. One that is dropped before its tunnel opens is recorded as
/// abandoned.
#[derive(Debug)]
pub(super) struct AgreedHandshake {
    pub(super) recorder: Rc<Recorder>,
    pub(super) protocol: ClientProtocol,
    /// The time from the request to the endpoint's 101.
    pub(super) took: Duration,
    pub(super) request_id: Option<Box<str>>,
    pub(super) trace: Option<TraceId>,
    pub(super) span: Option<HandshakeSpan>,
    /// `None` once the tunnel is open.
    pub(super) facts: Option<TunnelFacts>,
}

impl AgreedHandshake {
    /// Records that the tunnel is open, and returns its facts.
    pub(super) fn open(&mut self) -> Option<TunnelFacts> {
        let facts = self.facts.take()?;
        access_log::tunnel_opened(&self.recorder, &facts, self.opening());
        Some(facts)
    }

    fn opening(&self) -> TunnelOpening<'_> {
        TunnelOpening {
            protocol: self.protocol,
            handshake: self.took,
            request_id: self.request_id.as_deref(),
            trace: self.trace,
            span: self.span,
        }
    }
}

impl Drop for AgreedHandshake {
    fn drop(&mut self) {
        if let Some(facts) = self.facts.take() {
            access_log::tunnel_not_opened(&self.recorder, &facts, self.opening());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::observe::facts::testing;
    use crate::observe::labels::HandshakeOutcome;
    use crate::traces::span::AttributeValue;

    #[test]
    fn it_has_one_span_whether_its_tunnel_opens_or_not() {
        for (opens, outcome) in [
            (true, HandshakeOutcome::Opened),
            (false, HandshakeOutcome::Abandoned),
        ] {
            let recorder = Rc::new(testing::recorder());
            let facts = testing::tunnel(&recorder.counters);
            let series = facts.series.clone();
            let mut handshake = AgreedHandshake {
                recorder: Rc::clone(&recorder),
                protocol: ClientProtocol::Http1,
                took: Duration::from_millis(1),
                request_id: None,
                trace: None,
                span: Some(testing::span(SystemTime::now())),
                facts: Some(facts),
            };
            assert_eq!(opens, opens && handshake.open().is_some());
            drop(handshake);
            let spans = recorder.spans.taken();
            let [span] = &spans[..] else {
                panic!("{spans:?}");
            };
            for (name, value) in [
                ("tidegate.outcome", outcome.token()),
                ("tidegate.upstream", "chat"),
                ("tidegate.endpoint", "127.0.0.1:9000"),
            ] {
                let expected = (name, AttributeValue::Text(value.into()));
                assert!(span.attributes.iter().any(|it| *it == expected), "{span:?}");
            }
            let counted = series.route.handshakes(outcome, ClientProtocol::Http1);
            assert_eq!(counted.get(), 1);
        }
    }
}
