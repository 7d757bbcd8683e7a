//! Dead peers: when to send a Ping to a quiet side of a tunnel, and when to give the side up.
//!
//! Pure: the caller brings the time and the byte counts, and gets what to do. A side that sends
//! anything is alive. A side that is silent for `ping` gets a Ping; if it stays silent for another
//! `pong`, it is dead. If the Ping cannot be sent, because a frame is under way, a side is only
//! given up if it has not accepted any data for that long either. A side that we do not read is not
//! silent: what it says lies in its socket.
//!
//! A Ping comes up to a fifth of `ping` earlier than it has to, at random: tunnels that opened
//! together would otherwise be pinged together for as long as they are quiet.

use std::num::NonZeroU64;
use std::time::Duration;

use super::side::Side;
use crate::config::model::PingConfig;

/// The part of `ping` by which a Ping may come earlier.
const MAX_JITTER: u32 = 5;

/// Microseconds for which the worker has run since its table was created.
pub type Micros = u64;

/// The liveness of the two sides of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    client: SideLiveness,
    endpoint: SideLiveness,
}

/// The liveness of one side.
#[derive(Debug, Clone, Copy)]
struct SideLiveness {
    /// The lower half of the number of bytes that had come from the side by the last sweep.
    seen: u32,
    /// By how much the next Ping comes earlier, in 65536ths of the maximum.
    jitter: u16,
    /// When the last byte or Pong came; for bytes, the time of the sweep that noticed.
    heard: Micros,
    /// When a Ping was requested, and when it was sent.
    asked: Option<NonZeroU64>,
    sent: Option<NonZeroU64>,
}

/// What a sweep sees of a side.
#[derive(Debug, Clone, Copy)]
pub struct SideState {
    /// Bytes that have come from it so far.
    pub bytes: u64,
    /// Whether everything that it has sent was read.
    pub is_read: bool,
    /// For how long it has accepted none of the data that waits for it.
    pub stuck: Duration,
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
    /// Both sides are alive. The Pings follow from `random`.
    pub fn new(now: Micros, random: u16) -> Self {
        let state = |jitter| SideLiveness {
            seen: 0,
            jitter,
            heard: now,
            asked: None,
            sent: None,
        };
        Self {
            client: state(random),
            endpoint: state(random.rotate_left(8)),
        }
    }

    /// Checks a side, given what is seen of it.
    pub fn check(
        &mut self,
        side: Side,
        seen: SideState,
        (now, times): (Micros, PingConfig),
    ) -> LivenessAction {
        let state = self.side(side);
        let bytes = seen.bytes as u32;
        if bytes != state.seen || !seen.is_read {
            (state.seen, state.heard) = (bytes, now);
        }
        let since = |then: Micros| Duration::from_micros(now.saturating_sub(then));
        let (quiet, every) = (since(state.heard), state.every(times));
        if quiet < every {
            return LivenessAction::Wait;
        }
        let Some(asked) = state.asked else {
            state.asked = NonZeroU64::new(now.max(1));
            return LivenessAction::Ping;
        };
        let has_waited = match state.sent {
            Some(sent) => since(sent.get()) >= times.pong,
            // The Ping could not be sent. A side that accepts data is alive, whatever the reason; a
            // side that accepts none is as bad as one that does not answer.
            None => since(asked.get()) >= times.pong && seen.stuck >= times.pong,
        };
        // Both: the Ping may have been sent late, and bytes may have come since.
        match has_waited && quiet >= every.saturating_add(times.pong) {
            true => LivenessAction::GiveUp,
            false => LivenessAction::Wait,
        }
    }

    /// Notes that the Ping to a side was sent.
    pub fn ping_sent(&mut self, side: Side, now: Micros) {
        self.side(side).sent = NonZeroU64::new(now.max(1));
    }

    /// Notes that the Pong has come. Returns the round-trip time.
    pub fn pong_received(&mut self, side: Side, now: Micros) -> Option<Duration> {
        let state = self.side(side);
        state.heard = now;
        state.asked = None;
        // A linear congruential generator of full period: enough for the times of Pings.
        state.jitter = state.jitter.wrapping_mul(25_173).wrapping_add(13_849);
        let sent = state.sent.take()?;
        Some(Duration::from_micros(now.saturating_sub(sent.get())))
    }

    fn side(&mut self, side: Side) -> &mut SideLiveness {
        match side {
            Side::Client => &mut self.client,
            Side::Endpoint => &mut self.endpoint,
        }
    }
}

impl SideLiveness {
    /// The silence after which this side gets its next Ping.
    fn every(&self, times: PingConfig) -> Duration {
        let earlier = times.every / MAX_JITTER * u32::from(self.jitter) / (1 << 16);
        times.every.saturating_sub(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;
    const TIMES: PingConfig = PingConfig {
        every: Duration::from_secs(25),
        pong: Duration::from_secs(20),
        clients: true,
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
            let seen = SideState {
                bytes,
                is_read: true,
                stuck,
            };
            match liveness.check(Side::Client, seen, at) {
                LivenessAction::Wait => {}
                todo => done.push((second, todo)),
            }
        }
        done
    }

    #[test]
    fn a_quiet_side_gets_a_ping_and_is_given_up_without_an_answer() {
        let mut liveness = Liveness::new(0, 0);
        let asked = check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(asked, [(25, LivenessAction::Ping)]);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let rest = check(&mut liveness, (26, 45), 0, Duration::ZERO);
        assert_eq!(rest, [(45, LivenessAction::GiveUp)]);
    }

    #[test]
    fn a_side_that_answers_is_alive_and_gets_another_ping_later() {
        let mut liveness = Liveness::new(0, 0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let took = liveness.pong_received(Side::Client, 27 * SECOND);
        assert_eq!(took, Some(Duration::from_secs(2)));
        // With some jitter from now on.
        let again = check(&mut liveness, (28, 60), 0, Duration::ZERO);
        assert_eq!(again, [(51, LivenessAction::Ping)]);
    }

    #[test]
    fn a_side_that_sends_is_alive_even_without_an_answer() {
        let mut liveness = Liveness::new(0, 0);
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
        let mut liveness = Liveness::new(0, 0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        assert_eq!(check(&mut liveness, (26, 200), 0, Duration::ZERO), []);
        let stuck = Duration::from_secs(20);
        let gone = check(&mut liveness, (201, 201), 0, stuck);
        assert_eq!(gone, [(201, LivenessAction::GiveUp)]);
    }

    #[test]
    fn a_side_that_is_not_read_is_not_silent() {
        let mut liveness = Liveness::new(0, 0);
        check(&mut liveness, (1, 25), 0, Duration::ZERO);
        liveness.ping_sent(Side::Client, 25 * SECOND);
        let unread = SideState {
            bytes: 0,
            is_read: false,
            stuck: Duration::ZERO,
        };
        for second in 26..=200 {
            let at = (second * SECOND, TIMES);
            let action = liveness.check(Side::Client, unread, at);
            assert_eq!(action, LivenessAction::Wait, "after {second} s");
        }
        // Read again, and its Pong was not there.
        let gone = check(&mut liveness, (201, 245), 0, Duration::ZERO);
        assert_eq!(gone, [(245, LivenessAction::GiveUp)]);
    }

    #[test]
    fn pings_of_tunnels_that_opened_together_drift_apart_and_none_is_late() {
        const TUNNELS: u16 = 64;
        let mut pings = vec![0u32; 26];
        for number in 0..TUNNELS {
            let mut liveness = Liveness::new(0, number * (u16::MAX / TUNNELS));
            let mut heard = 0;
            for _ in 0..20 {
                let asked = check(&mut liveness, (heard + 1, heard + 25), 0, Duration::ZERO);
                let [(at, LivenessAction::Ping)] = asked[..] else {
                    panic!("one Ping in each period, not {asked:?}");
                };
                pings[(at - heard) as usize] += 1;
                liveness.ping_sent(Side::Client, at * SECOND);
                liveness.pong_received(Side::Client, at * SECOND);
                heard = at;
            }
        }
        // From 20 s to 25 s: every second of that has its share.
        let total = u32::from(TUNNELS) * 20;
        assert_eq!(pings[21..=25].iter().sum::<u32>(), total, "{pings:?}");
        assert!(
            pings[21..=25].iter().all(|count| *count > total / 10),
            "{pings:?}"
        );
    }
}
