//! The ids of the spans of open tunnels, for those that are sampled: a tunnel that is not holds nothing for them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::SystemTime;

use crate::observe::facts::{HandshakeSpan, SessionId};
use crate::observe::spans::TunnelSpan;

/// The sampled tunnels of a worker.
#[derive(Debug, Default)]
pub(super) struct TracedTunnels(RefCell<HashMap<SessionId, TunnelSpan>>);

impl TracedTunnels {
    /// Notes a tunnel that has opened now, and whose handshake had this span.
    pub(super) fn add(&self, session: SessionId, handshake: HandshakeSpan) {
        let span = TunnelSpan::after(handshake, SystemTime::now());
        self.0.borrow_mut().insert(session, span);
    }

    /// Forgets a tunnel that has ended. Returns what its span needs, if it is sampled.
    pub(super) fn take(&self, session: SessionId) -> Option<TunnelSpan> {
        let mut tunnels = self.0.borrow_mut();
        let span = tunnels.remove(&session)?;
        let left = tunnels.len();
        if left * 4 < tunnels.capacity() {
            tunnels.shrink_to(left * 2);
        }
        Some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::trace_context::TraceContext;
    use crate::traces::span::SpanIds;

    #[test]
    fn what_has_ended_takes_no_memory() {
        let tunnels = TracedTunnels::default();
        let TraceContext { trace, span, .. } = TraceContext::generate([1; 24]);
        let ids = SpanIds {
            trace,
            span,
            parent: None,
        };
        let handshake = HandshakeSpan {
            ids,
            began: SystemTime::UNIX_EPOCH,
            is_secure: true,
            port: Some(8443),
        };
        (0..1000).for_each(|session| tunnels.add(SessionId(session), handshake));
        assert_eq!(tunnels.take(SessionId(1000)), None);
        for session in 0..1000 {
            let taken = tunnels.take(SessionId(session)).unwrap();
            assert_eq!(taken, TunnelSpan::after(handshake, taken.began));
            // Not the beginning of the handshake.
            assert!(taken.began > handshake.began);
        }
        assert!(tunnels.0.borrow().capacity() < 16);
        assert!(size_of::<(SessionId, TunnelSpan)>() <= 64);
    }
}
