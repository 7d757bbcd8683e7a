//! Whether a client that is silent is still there: one PING for all tunnels of its connection (RFC 9113 section 6.7).

use std::cell::Cell;
use std::rc::Rc;
use std::task::Context;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::config::model::PingConfig;

/// Asks the client of a connection that carries tunnels.
#[derive(Debug)]
pub(super) struct ClientPing {
    /// `None` if h2 has none to give, which it has for the first who asks.
    pings: Option<PingPong>,
    /// When the client was asked, if it has not answered.
    asked: Option<Instant>,
    /// When the client was last known to be there.
    heard: Rc<Cell<Instant>>,
}

impl ClientPing {
    /// For the client that `heard` is about.
    pub(super) fn new(pings: Option<PingPong>, heard: Rc<Cell<Instant>>) -> Self {
        Self {
            pings,
            asked: None,
            heard,
        }
    }

    /// When the client is to be asked, or given up.
    pub(super) fn due(&self, times: PingConfig) -> Instant {
        let quiet = self.heard.get() + times.every;
        match self.asked {
            // What has come since shows that it is there, also if the answer itself is not among it yet.
            Some(asked) => (asked + times.pong).max(quiet),
            None => quiet,
        }
    }

    /// Asks the client if it has been silent for too long. Returns whether it is dead: it was asked, and is silent
    /// still.
    pub(super) fn finds_dead(&mut self, times: PingConfig, now: Instant) -> bool {
        if self.due(times) > now {
            return false;
        }
        if self.asked.is_some_and(|asked| self.heard.get() <= asked) {
            return true;
        }
        // A PING that is under way asks, too.
        let _ = self
            .pings
            .as_mut()
            .map(|pings| pings.send_ping(Ping::opaque()));
        self.asked = Some(now);
        false
    }

    /// Takes the answer, so that the client can be asked again.
    pub(super) fn take_answer(&mut self, cx: &mut Context<'_>) {
        if self.asked.is_some()
            && let Some(pings) = &mut self.pings
            && pings.poll_pong(cx).is_ready()
        {
            self.asked = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const TIMES: PingConfig = PingConfig {
        every: Duration::from_secs(25),
        pong: Duration::from_secs(20),
        clients: false,
    };

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_asked_once_and_then_given_up() {
        let began = Instant::now();
        let mut ping = ClientPing::new(None, Rc::new(Cell::new(began)));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(ping.due(TIMES), after(25));
        assert!(!ping.finds_dead(TIMES, after(24)) && ping.asked.is_none());
        assert!(!ping.finds_dead(TIMES, after(25)) && ping.asked.is_some());
        assert_eq!(ping.due(TIMES), after(45));
        assert!(!ping.finds_dead(TIMES, after(44)));
        assert!(ping.finds_dead(TIMES, after(45)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_anything_is_there() {
        let began = Instant::now();
        let mut ping = ClientPing::new(None, Rc::new(Cell::new(began)));
        let after = |seconds| began + Duration::from_secs(seconds);
        assert!(!ping.finds_dead(TIMES, after(25)));
        ping.heard.set(after(30));
        assert!(!ping.finds_dead(TIMES, after(45)));
        assert_eq!(ping.due(TIMES), after(55));
        // Asked again, and silent from then on.
        assert!(!ping.finds_dead(TIMES, after(55)));
        assert!(ping.finds_dead(TIMES, after(75)));
    }
}
