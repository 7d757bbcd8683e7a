//! Network bytes become types here, once: handshakes, targets, answers, forwarding headers.
//!
//! Pure: no I/O, no clock, no async. No other module decides framing, upgrades, trust or hosts
//! from raw header bytes.
