//! How many streams a client has opened, by the frames that it sends (RFC 9113 section 4.1).
//!
//! h2 rejects some heads by itself, such as one that is too large or has two lengths, and does not report them. They are
//! those that were opened and not handed over. Only the heads of frames are looked at: h2 decides what they mean.

/// The length of a frame's head.
const FRAME_HEAD: usize = 9;

/// The length of what a client sends before its first frame (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Counts the streams that a client has opened.
#[derive(Debug)]
pub(super) struct OpenedStreams {
    /// The bytes of a frame's head that have come.
    head: [u8; FRAME_HEAD],
    length: usize,
    /// The rest of the frame under way.
    rest: u32,
    /// The newest stream: those of a client have growing numbers.
    newest: u32,
    /// Whether the head of the newest stream has not come to its end.
    is_opening: bool,
    /// Whether it will have with the frame under way.
    ends_with_frame: bool,
    count: u64,
}

impl OpenedStreams {
    /// Of a client that has sent nothing.
    pub(super) fn new() -> Self {
        Self {
            head: [0; FRAME_HEAD],
            length: 0,
            rest: PREFACE,
            newest: 0,
            is_opening: false,
            ends_with_frame: false,
            count: 0,
        }
    }

    /// How many there are so far whose heads have come to their ends.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Goes over what the client has sent.
    pub(super) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.rest > 0 {
                let length = u32::try_from(bytes.len())
                    .unwrap_or(u32::MAX)
                    .min(self.rest);
                self.rest -= length;
                bytes = bytes.get(length as usize..).unwrap_or_default();
            } else {
                let length = bytes.len().min(FRAME_HEAD - self.length);
                let (part, after) = bytes.split_at(length);
                for (place, byte) in self.head.iter_mut().skip(self.length).zip(part) {
                    *place = *byte;
                }
                self.length += length;
                bytes = after;
                if self.length < FRAME_HEAD {
                    return;
                }
                self.length = 0;
                self.begin_frame();
            }
            if self.rest == 0 && self.ends_with_frame {
                (self.is_opening, self.ends_with_frame) = (false, false);
                self.count += 1;
            }
        }
    }

    fn begin_frame(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.rest = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        if kind == HEADERS && stream > self.newest {
            self.newest = stream;
            self.is_opening = true;
        }
        // Trailers have such frames, too.
        let is_of_head = self.is_opening && matches!(kind, HEADERS | CONTINUATION);
        self.ends_with_frame = is_of_head && flags & END_HEADERS != 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        // What looks like the head of a frame.
        frame.extend((0..length).map(|at| [0, 0, 0, HEADERS, END_HEADERS, 0, 0, 1, 1][at % 9]));
        frame
    }

    fn client() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for (kind, flags, stream, length) in [
            (4, 0, 0, 6),
            (HEADERS, END_HEADERS, 1, 20),
            (0, 0, 1, 100),
            // Trailers.
            (HEADERS, END_HEADERS | 1, 1, 10),
            // A head in three frames, and an empty one.
            (HEADERS, 1, 3, 50),
            (CONTINUATION, 0, 3, 50),
            (CONTINUATION, END_HEADERS, 3, 0),
            (HEADERS, END_HEADERS, 9, 0),
            (3, 0, 9, 4),
        ] {
            bytes.extend(frame(kind, flags, stream, length));
        }
        bytes
    }

    #[test]
    fn a_stream_is_opened_when_its_head_has_come() {
        let mut streams = OpenedStreams::new();
        let bytes = client();
        let mut opened_at = Vec::new();
        for (position, byte) in bytes.iter().enumerate() {
            let before = streams.count();
            streams.advance(&[*byte]);
            if streams.count() > before {
                opened_at.push(position + 1);
            }
        }
        let first = 24 + (9 + 6) + (9 + 20);
        let second = first + (9 + 100) + (9 + 10) + (9 + 50) + (9 + 50) + 9;
        assert_eq!(opened_at, [first, second, second + 9]);
    }

    proptest! {
        #[test]
        fn the_count_does_not_depend_on_the_pieces(
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let bytes = client();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let (mut streams, mut begin) = (OpenedStreams::new(), 0);
            for cut in cuts {
                streams.advance(&bytes[begin..cut]);
                begin = cut;
            }
            streams.advance(&bytes[begin..]);
            prop_assert_eq!(streams.count(), 3);
        }
    }
}
