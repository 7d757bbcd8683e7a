//! The decisions of a tunnel: which direction goes on, half-closes, breaks or ends, without a
//! socket or a clock.
//!
//! The driver (`copy`) moves bytes and reports what happened; the forwarder answers what each
//! direction does next, and when the tunnel has ended and why. Frames are the business of
//! `framing`. Bytes that were read and not yet written (the remainder) belong to the driver; here
//! they only delay an end.

use super::ended::Ended;
use super::framing::{Allowance, Filtered, Framing, PingPayload, Violation};
use super::side::Side;
use crate::config::model::TunnelLimits;
use crate::protocol::frame::Frame;

/// The next step of the direction that starts at a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Read from the side and write to the other.
    Relay,
    /// Write the remainder to the other side, then end the stream there (FIN).
    PassEnd,
    /// Write the remainder to the other side, and read nothing more: nothing that comes matters.
    Ignore,
    /// Nothing: the direction is done.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    /// The source has ended or broken: what was read before is still delivered.
    Ending,
    /// The end was passed on, or the sink is gone.
    Done,
}

/// The state of one tunnel.
#[derive(Debug)]
pub struct Forwarder {
    from_client: Flow,
    from_endpoint: Flow,
    /// The reason of the tunnel's end: the first thing that ended or went wrong.
    first: Option<Ended>,
    /// The side whose connection broke: the other one sees a reset after everything that came
    /// before.
    broken: Option<Side>,
    /// The first Close that passed: its sender and its code.
    closed: Option<(Side, u16)>,
    framing: Framing,
}

impl Forwarder {
    /// A tunnel whose directions are both open, with these limits.
    pub fn new(limits: &TunnelLimits) -> Self {
        // Any limit on messages makes framing strict: bytes that are not frames would be the way
        // around it. So a rate of messages alone is a limit of their length that no message
        // exceeds.
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

    /// Filters the next bytes from `side`, which are in `buffer[HEADROOM..end]`: see
    /// [`Framing::filter`].
    pub fn filter(
        &mut self,
        side: Side,
        buffer: &mut [u8],
        end: usize,
        allowance: Allowance,
    ) -> Filtered {
        let filtered = self.framing.filter(side, buffer, end, allowance);
        if let Some(code) = filtered.close {
            self.closed.get_or_insert((side, code));
            // A side that says goodbye ends the tunnel, though both still have to answer and to
            // hang up: whatever happens from here on is a consequence.
            self.first.get_or_insert(match side {
                Side::Client => Ended::ClientClose,
                Side::Endpoint => Ended::UpstreamClose,
            });
        }
        match filtered.violation {
            Some(Violation::MessageTooBig) => self.end(Ended::MessageTooBig),
            Some(Violation::ProtocolError) => self.end(Ended::ProtocolError),
            Some(Violation::MessageRate) => self.end(Ended::MessageRate),
            Some(Violation::ByteRate) => self.end(Ended::ByteRate),
            None => {}
        }
        filtered
    }

    /// Ends the tunnel for this reason. Both sides get a Close frame, if one can be sent to them.
    pub fn end(&mut self, reason: Ended) {
        self.end_with_close(reason, reason.close_code(), reason.token());
    }

    /// Ends the tunnel for this reason, with this code and text in the Close frame to the client.
    pub fn end_with_close(&mut self, reason: Ended, code: Option<u16>, text: &str) {
        // Not where a side had sent its Close: a limit that passes during the closing handshake did
        // not end the tunnel. A side that merely ended its stream is different: a half-closed
        // tunnel may go on for long, and does end by its limit.
        let theirs = matches!(self.first, Some(Ended::ClientClose | Ended::UpstreamClose));
        if !theirs && !self.framing.is_closing() {
            self.first = Some(reason);
        }
        if reason.judges_client() {
            self.framing.cut_off_client();
        }
        self.framing.close(code, text);
    }

    /// Requests a Ping to `side`, to be sent where a frame may stand: see [`Framing::ping`].
    pub fn ping(&mut self, side: Side, payload: PingPayload) -> bool {
        self.framing.ping(side, payload)
    }

    /// Takes a frame of our own that is to go to `side` now. The caller must have nothing unwritten
    /// in that direction. `mask` is called for an unpredictable mask, and only if there may be a
    /// frame.
    pub fn inject(&mut self, side: Side, mask: impl FnOnce() -> [u8; 4]) -> Option<Frame> {
        if !self.framing.has_frame_for(side) {
            return None;
        }
        // The end of that stream was passed on, or is about to be: nothing may follow it.
        if self.flow(side.other()) != Flow::Open {
            self.framing.give_up(side);
            return None;
        }
        self.framing.inject(side, mask())
    }

    /// Stops waiting for a place for our Close to the client, and for the answer to it.
    pub fn stop_waiting(&mut self) {
        self.framing.give_up(Side::Client);
        self.framing.side_is_done(Side::Client);
    }

    /// The reason for which we are ending the tunnel, if we are.
    pub fn ending(&self) -> Option<Ended> {
        self.framing.is_closing().then_some(self.first).flatten()
    }

    /// The reason of the tunnel's end, as far as it is known.
    pub fn reason(&self) -> Option<Ended> {
        self.first
    }

    /// Whether we have ended the tunnel, and no Close is left to send or to wait for.
    pub fn has_closed(&self) -> bool {
        self.framing.has_closed()
    }

    /// Whether we have ended the tunnel, and no Close is left to send to `side`.
    pub fn has_sent_close(&self, side: Side) -> bool {
        self.framing.has_sent_close(side)
    }

    /// Whether closing the tunnel in order waits for a message under way: see
    /// [`Framing::waits_for_message`].
    pub fn waits_for_message(&self) -> bool {
        self.framing.waits_for_message()
    }

    /// Whether nothing more that comes from `side` goes on.
    pub fn discards(&self, side: Side) -> bool {
        self.framing.discards(side)
    }

    /// Takes the bytes from `side` that were held back, because its stream has ended.
    pub fn take_held(&mut self, side: Side) -> Option<Box<[u8]>> {
        self.framing.take_held(side)
    }

    /// The first Close that passed: its sender and its code.
    pub fn closed(&self) -> Option<(Side, u16)> {
        self.closed
    }

    /// Whether either stream held bytes that were not valid frames.
    pub fn is_unframed(&self) -> bool {
        self.framing.is_unframed()
    }

    /// The next step of the direction that starts at `side`.
    pub fn next_step(&self, side: Side) -> NextStep {
        match self.flow(side) {
            Flow::Open if self.framing.ignores(side) => NextStep::Ignore,
            Flow::Open => NextStep::Relay,
            Flow::Ending => NextStep::PassEnd,
            Flow::Done => NextStep::Done,
        }
    }

    /// Notes that `side` ended its stream in order.
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

    /// Notes that reading from `side` failed: its connection is gone both ways.
    pub fn source_broke(&mut self, side: Side) {
        if self.flow(side) == Flow::Open {
            *self.flow_mut(side) = Flow::Ending;
        }
        // Nothing can be delivered there any more, so nothing needs to be read for it.
        *self.flow_mut(side.other()) = Flow::Done;
        self.framing.side_is_done(side);
        self.break_off(side);
    }

    /// Notes that writing to `side` failed. What the side sent before may still be unread, so the
    /// direction from it goes on until reading fails or ends, too.
    pub fn sink_broke(&mut self, side: Side) {
        *self.flow_mut(side.other()) = Flow::Done;
        self.break_off(side);
    }

    /// Notes that the connection of `side` is gone, and gives up what it sent before: the other side
    /// accepts none of it.
    pub fn abandon(&mut self, side: Side) {
        self.source_broke(side);
        *self.flow_mut(side) = Flow::Done;
    }

    /// Notes that everything from `side`, its end included, was delivered.
    pub fn end_passed(&mut self, side: Side) {
        *self.flow_mut(side) = Flow::Done;
    }

    /// Whether exactly one direction is over, or both sides have said goodbye and neither has ended
    /// its stream, so that the limit `half_closed` applies.
    pub fn is_half_closed(&self) -> bool {
        let (client, endpoint) = (self.from_client, self.from_endpoint);
        (client == Flow::Open) != (endpoint == Flow::Open)
            || (client == Flow::Open && self.framing.has_passed_both_closes())
    }

    /// The reason of the tunnel's end, once it has ended.
    pub fn ended(&self) -> Option<Ended> {
        // With our own Close handshakes done, what either side may still send has no reader.
        let over = self.from_client == Flow::Done && self.from_endpoint == Flow::Done;
        if over || self.has_closed() {
            self.first
        } else {
            None
        }
    }

    /// The side whose connection has to be reset, because the other side's broke.
    pub fn reset_to(&self) -> Option<Side> {
        self.broken.map(Side::other)
    }

    fn break_off(&mut self, side: Side) {
        // The first of both: a reset that we cause ourselves breaks the other side, too.
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
    enum FlowEvent {
        SourceEnded(Side),
        SourceBroke(Side),
        SinkBroke(Side),
        EndPassed(Side),
    }
    use FlowEvent::{EndPassed, SinkBroke, SourceBroke, SourceEnded};
    use Side::{Client, Endpoint};

    fn after(events: &[FlowEvent]) -> Forwarder {
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
    fn check(events: &[FlowEvent], steps: (NextStep, NextStep), ended: Option<Ended>) {
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
            let events: Vec<FlowEvent> = events.into_iter().map(|(kind, client)| {
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
