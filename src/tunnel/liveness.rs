//! Whether the two sides of a quiet tunnel are still there: when to ask, and when to give up.
//!
//! Pure: told the time and what has come, it tells what to do. A side that sends anything is there. One
//! that is quiet for `ping` is asked; if it stays quiet for `pong` more, it is gone. Nobody is given up
//! whom nothing could be asked, as long as it takes what it is sent.

use std::time::Duration;

use super::side::Side;
use crate::config::model::PingConfig;

/// Time since the table began, in microseconds.
pub(super) type Micros = u64;

/// What is known of the two sides of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    client: SideLiveness,
    endpoint: SideLiveness,
}

/// One side.
#[derive(Debug, Clone, Copy)]
struct SideLiveness {
    /// Bytes that had come from it by the last sweep.
    seen: u64,
    /// When the last of them came, as far as sweeps tell.
    heard: Micros,
    /// When it was to be asked, and when the Ping went out.
    asked: Option<Micros>,
    sent: Option<Micros>,
}

/// What to do about a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessAction {
    /// Nothing.
    Wait,
    /// Ask it, by a Ping.
    Ping,
    /// It is gone.
    GiveUp,
}

impl Liveness {
    /// Both are there.
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

    /// Looks at a side from which `bytes` have come so far, and which has taken nothing of what waits for
    /// it for so long.
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
            // What cannot be asked because it takes nothing is no better than what does not answer.
            None => since(asked) >= times.pong && stuck >= times.pong,
        };
        match has_waited && quiet >= times.every.saturating_add(times.pong) {
            true => LivenessAction::GiveUp,
            false => LivenessAction::Wait,
        }
    }

    /// The Ping for a side goes out.
    pub fn ping_sent(&mut self, side: Side, now: Micros) {
        self.side(side).sent = Some(now);
    }

    /// Its answer has come: how long that took.
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

    /// Looks once a second from `from` to `to`; when there was something to do, and what.
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
    fn a_quiet_side_is_asked_and_given_up_when_nothing_comes() {
        let mut liveness = Liveness::new(0);
        let asked = check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(asked, [(25, LivenessAction::Ping)]);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let rest = check(&mut liveness, (26, 45), 0, Duration::ZERO);
        assert_eq!(rest, [(45, LivenessAction::GiveUp)]);
    }

    #[test]
    fn whoever_answers_is_there_and_is_asked_again_later() {
        let mut liveness = Liveness::new(0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let took = liveness.pong_received(Side::Client, 27 * SECOND);
        assert_eq!(took, Some(Duration::from_secs(2)));
        let again = check(&mut liveness, (28, 60), 0, Duration::ZERO);
        assert_eq!(again, [(52, LivenessAction::Ping)]);
    }

    #[test]
    fn whoever_sends_is_there_even_without_an_answer() {
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
    fn whom_nothing_could_be_asked_is_given_up_only_if_it_takes_nothing() {
        let mut liveness = Liveness::new(0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(check(&mut liveness, (26, 200), 0, Duration::ZERO), []);
        let stuck = Duration::from_secs(20);
        let gone = check(&mut liveness, (201, 201), 0, stuck);
        assert_eq!(gone, [(201, LivenessAction::GiveUp)]);
    }
}
