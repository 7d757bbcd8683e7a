//! Any bytes are tracked as a stream of frames without a panic, with the same events wherever the stream
//! is cut. The first byte says where that is.

use tidegate::protocol::frame::{Event, Masking, Tracker};

fn events(masking: Masking, pieces: &[&[u8]]) -> Vec<Event> {
    let mut tracker = Tracker::new(masking);
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            let (length, event) = tracker.step(rest);
            assert!(length > 0 || event.is_some(), "it does not go on");
            rest = &rest[length..];
            events.extend(event);
        }
    }
    events
}

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let (before, after) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    for masking in [Masking::Required, Masking::Forbidden] {
        let whole = events(masking, &[bytes]);
        assert_eq!(whole, events(masking, &[before, after]));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, events(masking, &single));
    }
}
