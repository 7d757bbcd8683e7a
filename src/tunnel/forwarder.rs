//! What a tunnel does next: what goes on, half-closes, breaks and ends, without a socket or a clock.
//!
//! The driver moves bytes and tells the forwarder what happened; the forwarder says what each
//! direction may do and when, and as what, the tunnel is over. Frames are `framing`'s business.
//! Bytes that were read and not yet written (the remainder) are the driver's; here they only delay
//! an end.

use super::ended::Ended;
use super::framing::{Filtered, Framing, Notice, PingPayload};
use super::side::Side;
use crate::config::model::TunnelLimits;
use crate::protocol::frame::Frame;

/// What the direction that starts at a side is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Read there, write across.
    Relay,
    /// Write what is left across, then end the stream there (FIN).
    PassEnd,
    /// Nothing any more.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// Its source has ended, or broken: what was read before is still delivered.
    Ending,
    /// Its end was passed on, or its sink is gone.
    Done,
}

/// The state of one tunnel.
#[derive(Debug)]
pub struct Forwarder {
    from_client: Flow,
    from_endpoint: Flow,
    /// The first thing that went wrong or ended: it gives the tunnel its reason.
    first: Option<Ended>,
    /// The side whose connection broke: the other one is told so once it has what it is owed.
    broken: Option<Side>,
    /// The first Close that passed: whose, and its code.
    closed: Option<(Side, u16)>,
    framing: Framing,
}

impl Forwarder {
    /// Both directions open, and these limits to what may pass.
    pub fn new(limits: &TunnelLimits) -> Self {
        // Where there is a limit of any kind to messages, what is no framing would be the way around it.
        let any_length = limits.messages.map(|_| u64::MAX);
        let max_message_bytes = limits.message_bytes.or(any_length);
        Self {
            from_client: Flow::Open,
            from_endpoint: Flow::Open,
            first: None,
            broken: None,
            closed: None,
            framing: Framing::new(max_message_bytes),
        }
    }

    /// Looks at the next bytes from `side`, which are in `buffer[HEADROOM..end]`.
    pub fn filter(&mut self, side: Side, buffer: &mut [u8], end: usize) -> Filtered {
        let filtered = self.framing.filter(side, buffer, end);
        match filtered.notice {
            Some(Notice::Close { code }) => {
                self.closed.get_or_insert((side, code));
                self.first.get_or_insert(match side {
                    Side::Client => Ended::ClientClose,
                    Side::Endpoint => Ended::UpstreamClose,
                });
            }
            Some(Notice::MessageTooBig) => self.end(Ended::MessageTooBig),
            Some(Notice::ProtocolError) => self.end(Ended::ProtocolError),
            Some(Notice::Pong | Notice::Unframed) | None => {}
        }
        filtered
    }

    /// Ends the tunnel, for this reason: both sides are told as far as they can be.
    pub fn end(&mut self, reason: Ended) {
        self.end_with_close(reason, reason.close_code(), reason.token());
    }

    /// The same; the client is told this instead.
    pub fn end_with_close(&mut self, reason: Ended, code: Option<u16>, text: &str) {
        // One of the sides had said that it is over: nobody else ended it.
        let theirs = matches!(self.first, Some(Ended::ClientClose | Ended::UpstreamClose));
        if !theirs && !self.framing.is_closing() {
            self.first = Some(reason);
        }
        self.framing.close(code, text);
    }

    /// Wants a Ping to go to `side` when it can.
    pub fn ping(&mut self, side: Side, payload: PingPayload) {
        self.framing.ping(side, payload);
    }

    /// A frame of ours that is to go to `side` now. Only to be asked for when nothing is unwritten
    /// in that direction; `mask` is called for a mask that nobody can predict.
    pub fn inject(&mut self, side: Side, mask: impl FnOnce() -> [u8; 4]) -> Option<Frame> {
        if !self.framing.has_frame_for(side) {
            return None;
        }
        if self.flow(side.other()) != Flow::Open {
            self.framing.give_up(side);
            return None;
        }
        let frame = self.framing.inject(side, mask());
        if frame.is_some() && self.flow(side) != Flow::Open {
            self.framing.side_is_done(side);
        }
        frame
    }

    /// Neither a place for our Close to the client nor its answer is waited for any more.
    pub fn stop_waiting(&mut self) {
        self.framing.give_up(Side::Client);
        self.framing.side_is_done(Side::Client);
    }

    /// Why we are ending the tunnel, if we are.
    pub fn ending(&self) -> Option<Ended> {
        self.framing.is_closing().then_some(self.first).flatten()
    }

    /// What the tunnel ended or will end as, as far as that is known.
    pub fn reason(&self) -> Option<Ended> {
        self.first
    }

    /// Whether we have ended the tunnel, and nothing is left to say or to hear.
    pub fn has_closed(&self) -> bool {
        self.framing.has_closed()
    }

    /// The first Close that passed: whose it was, and its code.
    pub fn closed(&self) -> Option<(Side, u16)> {
        self.closed
    }

    /// Whether something of either stream was no framing.
    pub fn is_unframed(&self) -> bool {
        self.framing.is_unframed()
    }

    /// What the direction from `side` is to do next.
    pub fn next_step(&self, side: Side) -> NextStep {
        match self.flow(side) {
            Flow::Open => NextStep::Relay,
            Flow::Ending => NextStep::PassEnd,
            Flow::Done => NextStep::Done,
        }
    }

    /// `side` ended its stream in order.
    pub fn source_ended(&mut self, side: Side) {
        if self.flow(side) == Flow::Open {
            *self.flow_mut(side) = Flow::Ending;
            self.first.get_or_insert(match side {
                Side::Client => Ended::ClientEof,
                Side::Endpoint => Ended::UpstreamEof,
            });
            self.framing.side_is_done(side);
        }
    }

    /// Reading from `side` failed: its connection is gone both ways.
    pub fn source_broke(&mut self, side: Side) {
        if self.flow(side) == Flow::Open {
            *self.flow_mut(side) = Flow::Ending;
        }
        *self.flow_mut(side.other()) = Flow::Done;
        self.framing.side_is_done(side);
        self.break_off(side);
    }

    /// Writing to `side` failed. What it sent before may still be unread, so that direction goes
    /// on until reading fails or ends too.
    pub fn sink_broke(&mut self, side: Side) {
        *self.flow_mut(side.other()) = Flow::Done;
        self.break_off(side);
    }

    /// Everything from `side`, its end included, was delivered.
    pub fn end_passed(&mut self, side: Side) {
        *self.flow_mut(side) = Flow::Done;
    }

    /// Whether exactly one direction is over: what remains is on borrowed time.
    pub fn is_half_closed(&self) -> bool {
        (self.from_client == Flow::Open) != (self.from_endpoint == Flow::Open)
    }

    /// How the tunnel ended, once it has.
    pub fn ended(&self) -> Option<Ended> {
        let over = self.from_client == Flow::Done && self.from_endpoint == Flow::Done;
        if over || self.has_closed() {
            self.first
        } else {
            None
        }
    }

    /// The side that has to see a reset, because the other one's connection broke.
    pub fn reset_to(&self) -> Option<Side> {
        self.broken.map(Side::other)
    }

    fn break_off(&mut self, side: Side) {
        self.broken.get_or_insert(side);
        self.first.get_or_insert(match side {
            Side::Client => Ended::ClientReset,
            Side::Endpoint => Ended::UpstreamReset,
        });
    }

    fn flow(&self, side: Side) -> Flow {
        match side {
            Side::Client => self.from_client,
            Side::Endpoint => self.from_endpoint,
        }
    }

    fn flow_mut(&mut self, side: Side) -> &mut Flow {
        match side {
            Side::Client => &mut self.from_client,
            Side::Endpoint => &mut self.from_endpoint,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Event {
        SourceEnded(Side),
        SourceBroke(Side),
        SinkBroke(Side),
        EndPassed(Side),
    }
    use Event::{EndPassed, SinkBroke, SourceBroke, SourceEnded};
    use Side::{Client, Endpoint};

    fn after(events: &[Event]) -> Forwarder {
        let mut forwarder = Forwarder::new(&TunnelLimits::default());
        for event in events {
            match *event {
                SourceEnded(side) => forwarder.source_ended(side),
                SourceBroke(side) => forwarder.source_broke(side),
                SinkBroke(side) => forwarder.sink_broke(side),
                EndPassed(side) => forwarder.end_passed(side),
            }
        }
        forwarder
    }

    #[track_caller]
    fn check(events: &[Event], steps: (NextStep, NextStep), ended: Option<Ended>) {
        let forwarder = after(events);
        assert_eq!(
            (forwarder.next_step(Client), forwarder.next_step(Endpoint)),
            steps
        );
        assert_eq!(forwarder.ended(), ended);
    }

    #[test]
    fn an_end_is_passed_on_and_the_other_direction_goes_on() {
        check(&[], (NextStep::Relay, NextStep::Relay), None);
        check(
            &[SourceEnded(Client)],
            (NextStep::PassEnd, NextStep::Relay),
            None,
        );
        check(
            &[SourceEnded(Client), EndPassed(Client)],
            (NextStep::Done, NextStep::Relay),
            None,
        );
        assert!(after(&[SourceEnded(Client)]).is_half_closed());
        assert!(!after(&[]).is_half_closed());
    }

    #[test]
    fn the_side_that_ended_first_gives_the_reason() {
        let client_first = [
            SourceEnded(Client),
            EndPassed(Client),
            SourceEnded(Endpoint),
            EndPassed(Endpoint),
        ];
        check(
            &client_first,
            (NextStep::Done, NextStep::Done),
            Some(Ended::ClientEof),
        );
        let endpoint_first = [
            SourceEnded(Endpoint),
            SourceEnded(Client),
            EndPassed(Client),
            EndPassed(Endpoint),
        ];
        check(
            &endpoint_first,
            (NextStep::Done, NextStep::Done),
            Some(Ended::UpstreamEof),
        );
    }

    #[test]
    fn a_broken_source_still_delivers_what_it_sent() {
        let events = [SourceBroke(Client)];
        check(&events, (NextStep::PassEnd, NextStep::Done), None);
        assert_eq!(after(&events).reset_to(), Some(Endpoint));
        check(
            &[SourceBroke(Client), EndPassed(Client)],
            (NextStep::Done, NextStep::Done),
            Some(Ended::ClientReset),
        );
    }

    #[test]
    fn a_broken_sink_leaves_what_its_side_sent_before() {
        check(
            &[SinkBroke(Client)],
            (NextStep::Relay, NextStep::Done),
            None,
        );
        check(
            &[SinkBroke(Client), SourceBroke(Client), EndPassed(Client)],
            (NextStep::Done, NextStep::Done),
            Some(Ended::ClientReset),
        );
        check(
            &[
                SinkBroke(Endpoint),
                SourceEnded(Endpoint),
                EndPassed(Endpoint),
            ],
            (NextStep::Done, NextStep::Done),
            Some(Ended::UpstreamReset),
        );
    }

    proptest! {
        /// Whatever happens in whatever order, a tunnel whose directions are both done has a
        /// reason, and the first event that has one gives it.
        #[test]
        fn an_over_tunnel_has_the_first_reason(
            events in prop::collection::vec((0..4u8, any::<bool>()), 1..12),
        ) {
            let events: Vec<Event> = events.into_iter().map(|(kind, client)| {
                let side = if client { Client } else { Endpoint };
                match kind {
                    0 => SourceEnded(side),
                    1 => SourceBroke(side),
                    2 => SinkBroke(side),
                    _ => EndPassed(side),
                }
            }).filter(|event| !matches!(event, EndPassed(_))).collect();
            prop_assume!(!events.is_empty());
            let mut forwarder = after(&events);
            for side in [Client, Endpoint] {
                if forwarder.next_step(side) == NextStep::Relay {
                    forwarder.source_ended(side);
                }
                forwarder.end_passed(side);
            }
            let expected = match events[0] {
                SourceEnded(Client) => Ended::ClientEof,
                SourceEnded(Endpoint) => Ended::UpstreamEof,
                SourceBroke(Client) | SinkBroke(Client) => Ended::ClientReset,
                _ => Ended::UpstreamReset,
            };
            prop_assert_eq!(forwarder.ended(), Some(expected));
        }
    }
}
