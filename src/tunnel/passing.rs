//! What goes on of the bytes that have come from a side: filtered by the framing, and counted.

use super::forwarder::Forwarder;
use super::framing::{Allowance, HEADROOM};
use super::side::Side;
use super::table::{TableSlot, TunnelOwner};

/// Filters and counts `buffer[HEADROOM..end]`, which has come from `side`; returns what of it goes
/// on.
pub(super) fn filter<'a, O: TunnelOwner>(
    forwarder: &mut Forwarder,
    slot: &TableSlot<O>,
    side: Side,
    buffer: &'a mut [u8],
    end: usize,
) -> &'a [u8] {
    let meter = &slot.entry().meter;
    let allowance = match side {
        Side::Client => slot.allowance(),
        Side::Endpoint => Allowance::UNLIMITED,
    };
    let filtered = forwarder.filter(side, buffer, end, allowance);
    // Only what goes on: a Pong to our own Ping does not mean that the tunnel is used, and must not
    // keep it from being idle.
    meter.count(side, filtered.pass.len());
    if filtered.pong {
        slot.pong_received(side);
    }
    if filtered.replaces_ping {
        slot.ping_sent(side.other());
    }
    if filtered.messages > 0 {
        meter.count_messages(side, filtered.messages);
    }
    if !filtered.frames.is_empty() {
        slot.owner().frames_passed(side, &filtered.frames);
    }
    if side == Side::Client {
        slot.charge(end - HEADROOM, filtered.cost);
    }
    // Through the entry, so that the sweeps count from here and the same path ends every tunnel.
    if let Some(reason) = forwarder.ending() {
        slot.entry().end(reason);
    }
    buffer.get(filtered.pass).unwrap_or_default()
}
