//! Dead peers: when to send a Ping to a quiet side of a tunnel, and when to give the side up.
//!
//! Pure: the caller brings the time and the byte counts, and gets what to do. A side that sends
//! anything is alive. A side that is silent for `ping` gets a Ping; if it stays silent for another
//! `pong`, it is dead. If the Ping cannot be sent, because a frame is under way, a side is only
//! given up if it has not accepted any data for that long either.

use std::time::Duration;

use super::side::Side;
use crate::config::model::PingConfig;

/// Microseconds since the table was created.
pub(super) type Micros = u64;

/// The liveness of the two sides of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    client: SideLiveness,
    endpoint: SideLiveness,
}

/// The liveness of one side.
#[derive(Debug, Clone, Copy)]
struct SideLiveness {
    /// Bytes that had come from the side by the last sweep.
    seen: u64,
    /// When the last byte or Pong came; for bytes, the time of the sweep that noticed.
    heard: Micros,
    /// When a Ping was requested, and when it was sent.
    asked: Option<Micros>,
    sent: Option<Micros>,
}

/// What has to be done about a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessAction {
    /// Nothing has to be done.
    Wait,
    /// A Ping has to be sent.
    Ping,
    /// The side is dead: the tunnel has to end.
    GiveUp,
}

impl Liveness {
    /// Both sides are alive.
    pub fn new(now: Micros) -> Self {
        let state = SideLiveness {
            seen: 0,
            heard: now,
            asked: None,
            sent: None,
        };
        Self {
            client: state,
            endpoint: state,
        }
    }

    /// Checks a side. `bytes` have come from it so far, and for `stuck` it has accepted none of the
    /// data that waits for it.
    pub fn check(
        &mut self,
        side: Side,
        bytes: u64,
        stuck: Duration,
        (now, times): (Micros, PingConfig),
    ) -> LivenessAction {
        let state = self.side(side);
        if bytes != state.seen {
            (state.seen, state.heard) = (bytes, now);
        }
        let since = |then: Micros| Duration::from_micros(now.saturating_sub(then));
        let quiet = since(state.heard);
        if quiet < times.every {
            return LivenessAction::Wait;
        }
        let Some(asked) = state.asked else {
            state.asked = Some(now);
            return LivenessAction::Ping;
        };
        let has_waited = match state.sent {
            Some(sent) => since(sent) >= times.pong,
            // The Ping could not be sent. A side that accepts data is alive, whatever the reason; a
            // side that accepts none is as bad as one that does not answer.
            None => since(asked) >= times.pong && stuck >= times.pong,
        };
        // Both: the Ping may have been sent late, and bytes may have come since.
        match has_waited && quiet >= times.every.saturating_add(times.pong) {
            true => LivenessAction::GiveUp,
            false => LivenessAction::Wait,
        }
    }

    /// Notes that the Ping to a side was sent.
    pub fn ping_sent(&mut self, side: Side, now: Micros) {
        self.side(side).sent = Some(now);
    }

    /// Notes that the Pong has come. Returns the round-trip time.
    pub fn pong_received(&mut self, side: Side, now: Micros) -> Option<Duration> {
        let state = self.side(side);
        state.heard = now;
        state.asked = None;
        let sent = state.sent.take()?;
        Some(Duration::from_micros(now.saturating_sub(sent)))
    }

    fn side(&mut self, side: Side) -> &mut SideLiveness {
        match side {
            Side::Client => &mut self.client,
            Side::Endpoint => &mut self.endpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;
    const TIMES: PingConfig = PingConfig {
        every: Duration::from_secs(25),
        pong: Duration::from_secs(20),
    };

    /// Checks once a second from `from` to `to`; returns when something had to be done, and what.
    fn check(
        liveness: &mut Liveness,
        (from, to): (Micros, Micros),
        bytes: u64,
        stuck: Duration,
    ) -> Vec<(Micros, LivenessAction)> {
        let mut done = Vec::new();
        for second in from..=to {
            let at = (second * SECOND, TIMES);
            match liveness.check(Side::Client, bytes, stuck, at) {
                LivenessAction::Wait => {}
                todo => done.push((second, todo)),
            }
        }
        done
    }

    #[test]
    fn a_quiet_side_gets_a_ping_and_is_given_up_without_an_answer() {
        let mut liveness = Liveness::new(0);
        let asked = check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(asked, [(25, LivenessAction::Ping)]);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let rest = check(&mut liveness, (26, 45), 0, Duration::ZERO);
        assert_eq!(rest, [(45, LivenessAction::GiveUp)]);
    }

    #[test]
    fn a_side_that_answers_is_alive_and_gets_another_ping_later() {
        let mut liveness = Liveness::new(0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let took = liveness.pong_received(Side::Client, 27 * SECOND);
        assert_eq!(took, Some(Duration::from_secs(2)));
        let again = check(&mut liveness, (28, 60), 0, Duration::ZERO);
        assert_eq!(again, [(52, LivenessAction::Ping)]);
    }

    #[test]
    fn a_side_that_sends_is_alive_even_without_an_answer() {
        let mut liveness = Liveness::new(0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        assert_eq!(check(&mut liveness, (26, 40), 0, Duration::ZERO), []);
        // A byte, twenty seconds before every end that there could be.
        assert_eq!(check(&mut liveness, (41, 85), 1, Duration::ZERO), []);
        let gone = check(&mut liveness, (86, 86), 1, Duration::ZERO);
        assert_eq!(gone, [(86, LivenessAction::GiveUp)]);
    }

    #[test]
    fn a_side_without_a_ping_is_given_up_only_if_it_accepts_nothing() {
        let mut liveness = Liveness::new(0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(check(&mut liveness, (26, 200), 0, Duration::ZERO), []);
        let stuck = Duration::from_secs(20);
        let gone = check(&mut liveness, (201, 201), 0, stuck);
        assert_eq!(gone, [(201, LivenessAction::GiveUp)]);
    }
}
