//! What the sessions of one HTTP/2 connection share: the tunnels that are open on it, and whether its turn in a
//! drain has come.
//!
//! A drain is paced by connection: a browser that has lost one of its tunnels opens the next on the connection that
//! it has, which must not take it any more. So the first tunnel that a drain closes brings the turn of its
//! connection, and all others on it are closed with the same message, before any client can have answered.
//! `front/http2` does that.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::config::model::{PingConfig, TunnelLimits};
use crate::observe::access_log::SessionId;
use crate::tunnel::ended::{CloseMessage, Ended};

/// What the sessions of one HTTP/2 connection share.
#[derive(Debug, Default)]
pub struct SharedConnection {
    tunnels: RefCell<HashMap<SessionId, OpenTunnel>>,
    turn: RefCell<Option<Rc<CloseMessage>>>,
    /// When the client is asked whether it is there, by the routes of its tunnels.
    ping: Cell<Option<PingConfig>>,
    changed: Notify,
}

impl SharedConnection {
    /// The number of open tunnels.
    pub fn open_tunnels(&self) -> usize {
        self.tunnels.borrow().len()
    }

    /// The open tunnels: their sessions, and their places in the table of their worker.
    pub fn tunnels(&self) -> Vec<(SessionId, usize)> {
        let tunnels = self.tunnels.borrow();
        tunnels
            .iter()
            .map(|(session, tunnel)| (*session, tunnel.place))
            .collect()
    }

    /// Whether all that are open are being closed on purpose, and their clients have got the Close.
    pub fn has_closed_all(&self) -> bool {
        self.tunnels
            .borrow()
            .values()
            .all(|tunnel| tunnel.is_closed)
    }

    /// Waits until a tunnel has ended, or something else is [noted](Self::note_change).
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Wakes the task of the connection.
    pub fn note_change(&self) {
        self.changed.notify_one();
    }

    /// The message of a tunnel that the drain has closed, once: then the connection's turn has come.
    pub fn take_turn(&self) -> Option<Rc<CloseMessage>> {
        self.turn.take()
    }

    /// How to find out whether the client is still there; `None` if no tunnel asks for that.
    pub fn ping(&self) -> Option<PingConfig> {
        self.ping.get().filter(|_| self.open_tunnels() > 0)
    }

    /// A place for the tunnel of this session.
    pub(super) fn place_for(
        self: &Rc<Self>,
        session: SessionId,
        limits: &TunnelLimits,
    ) -> Box<StreamPlace> {
        // The most impatient route decides, also for the rest of the connection's life.
        let first = |one: PingConfig, other: PingConfig| PingConfig {
            every: one.every.min(other.every),
            pong: one.pong.min(other.pong),
            clients: false,
        };
        self.ping.set(match (self.ping.get(), limits.ping) {
            (Some(one), Some(other)) => Some(first(one, other)),
            (one, other) => one.or(other),
        });
        Box::new(StreamPlace {
            session,
            shared: Rc::clone(self),
        })
    }
}

#[derive(Debug)]
struct OpenTunnel {
    /// Its place in the table of its worker.
    place: usize,
    /// Whether it has sent its client a Close that was sent on purpose.
    is_closed: bool,
}

/// The place of a tunnel among those of its connection, until it ends.
#[derive(Debug)]
pub(super) struct StreamPlace {
    session: SessionId,
    shared: Rc<SharedConnection>,
}

impl StreamPlace {
    /// Notes the tunnel's place in the table of its worker.
    pub(super) fn entered(&self, place: usize) {
        let mut tunnels = self.shared.tunnels.borrow_mut();
        let is_closed = false;
        tunnels.insert(self.session, OpenTunnel { place, is_closed });
    }

    /// Notes that the client has got this Close, or gets none.
    pub(super) fn closed_with(&self, message: Rc<CloseMessage>) {
        let mut tunnels = self.shared.tunnels.borrow_mut();
        if let Some(tunnel) = tunnels.get_mut(&self.session)
            && !std::mem::replace(&mut tunnel.is_closed, true)
        {
            // One that was closed for a reason of its own says nothing about the others.
            if message.ended == Ended::Shutdown {
                self.shared.turn.replace(Some(message));
            }
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut tunnels = self.shared.tunnels.borrow_mut();
        tunnels.remove(&self.session);
        self.shared.changed.notify_one();
    }
}
