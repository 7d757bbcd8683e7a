//! What kind of frame a frame is (RFC 6455 section 5.2).

/// The opcode of a frame, without the reserved ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation,
    /// A message of text, or its first fragment.
    Text,
    /// A message of bytes, or its first fragment.
    Binary,
    /// The last frame of a direction.
    Close,
    /// A request for a Pong.
    Ping,
    /// The answer to a Ping.
    Pong,
}

impl Opcode {
    /// All opcodes, in the order of their variants.
    pub const ALL: [Self; 6] = [
        Self::Continuation,
        Self::Text,
        Self::Binary,
        Self::Close,
        Self::Ping,
        Self::Pong,
    ];

    /// The opcode with this number; `None` if it is reserved.
    pub fn of(number: u8) -> Option<Self> {
        match number {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    /// The name in metrics.
    pub fn token(self) -> &'static str {
        match self {
            Self::Continuation => "continuation",
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Close => "close",
            Self::Ping => "ping",
            Self::Pong => "pong",
        }
    }

    /// Whether a message begins with such a frame.
    pub fn begins_message(self) -> bool {
        matches!(self, Self::Text | Self::Binary)
    }
}

/// The number of frames of each kind, in the bytes of one read.
//
// A read is far shorter than the shortest frames of which there are more than a counter holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCounts([u16; Opcode::ALL.len()]);

impl FrameCounts {
    /// Counts a frame.
    #[inline]
    pub fn add(&mut self, opcode: Opcode) {
        if let Some(count) = self.0.get_mut(opcode as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; Opcode::ALL.len()]
    }

    /// The number of frames of each kind, in the order of [`Opcode::ALL`].
    pub fn each(&self) -> [u16; Opcode::ALL.len()] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_by_opcode() {
        let mut counts = FrameCounts::default();
        assert!(counts.is_empty());
        for number in 0..16 {
            if let Some(opcode) = Opcode::of(number) {
                (0..=number).for_each(|_| counts.add(opcode));
            }
        }
        assert_eq!(counts.each(), [1, 2, 3, 9, 10, 11]);
        let in_order = Opcode::ALL.iter().enumerate();
        assert!(in_order.into_iter().all(|(at, it)| *it as usize == at));
    }
}
