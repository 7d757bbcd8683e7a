//! Any bytes are tracked as a stream of frames without a panic, with the same events wherever the stream
//! is cut. The first byte says where that is.

use tidegate::protocol::frame::{Event, Masking, Tracker};

/// The events in these pieces; `skips` says whether bytes that need not be seen are passed over.
fn events(masking: Masking, pieces: &[&[u8]], skips: bool) -> Vec<Event> {
    let mut tracker = Tracker::new(masking);
    let mut events = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            if skips {
                let unseen = tracker.unseen().min(rest.len() as u64);
                tracker.pass_unseen(unseen);
                rest = &rest[unseen as usize..];
                if rest.is_empty() {
                    break;
                }
            }
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
        let whole = events(masking, &[bytes], false);
        assert_eq!(whole, events(masking, &[before, after], false));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(whole, events(masking, &single, false));
        assert_eq!(whole, events(masking, &[bytes], true));
        assert_eq!(whole, events(masking, &[before, after], true));
    }
}
