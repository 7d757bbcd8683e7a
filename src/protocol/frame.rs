//! WebSocket frames as a stream shows them: headers read, payloads skipped by length (RFC 6455
//! section 5).
//!
//! A [`Tracker`] sees the bytes of one direction in whatever pieces they come, and tells what begins
//! and ends in them. It never looks into the payload of a message, only into that of control frames,
//! which are small and say why a connection ends. Reserved bits are left to the extensions that both
//! sides agreed on.

/// The most that the payload of a control frame may have (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD: u64 = 125;

/// Bytes of a control frame's payload that are kept: a close code, or all of a Ping of ours.
pub const KEPT: usize = 8;

/// The longest header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// Who sends the frames: clients mask theirs, endpoints must not (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// As a client does.
    Required,
    /// As a server does.
    Forbidden,
}

/// The kinds of control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The last frame of a direction.
    Close,
    /// To be answered by a Pong with the same payload.
    Ping,
    /// The answer.
    Pong,
}

impl Control {
    fn of(opcode: u8) -> Option<Self> {
        match opcode {
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    fn opcode(self) -> u8 {
        match self {
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// What is in the stream at the point that the tracker has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The header of a frame of a message was read; its payload comes next.
    Data {
        /// Whether the message begins with this frame.
        begins: bool,
        /// Bytes of the message so far, this frame's included.
        message_bytes: u64,
    },
    /// The header of a control frame was read; its payload comes next.
    Control(Control),
    /// The last byte of a control frame was read.
    ControlEnd {
        /// Its kind.
        kind: Control,
        /// Bytes of its payload.
        length: u8,
        /// The first of them, unmasked, and zeros.
        payload: [u8; KEPT],
    },
    /// This is no framing: nothing can be told of what follows.
    Invalid(FrameError),
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved opcode.
    #[error("a frame has a reserved opcode")]
    Opcode,
    /// A client's frame is not masked, or an endpoint's is.
    #[error("a frame is masked in the wrong direction")]
    Masking,
    /// A length that is not written as short as can be, or is beyond 63 bits.
    #[error("the length of a frame is not written as it should be")]
    Length,
    /// A control frame that is long, or in fragments.
    #[error("a control frame is too long or in fragments")]
    Control,
    /// A continuation of nothing, or a message within a message.
    #[error("the fragments of messages do not fit together")]
    Fragments,
}

/// Follows the frames of one direction.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// Payload bytes of the current frame that are still to come.
    left: u64,
    /// Bytes of the message that is not at its end yet.
    message_bytes: u64,
    mask: [u8; 4],
    /// A header in pieces, or what was kept of a control frame's payload.
    buffer: [u8; MAX_HEADER],
    /// How much of the buffer is in use.
    filled: u8,
    /// Bytes of the control frame's payload that were read.
    seen: u8,
    /// Bytes of the last header.
    header: u8,
    position: FramePosition,
    in_message: bool,
    masking: Masking,
}

/// Where in a frame the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramePosition {
    Header,
    Data,
    Control(Control),
    Lost(FrameError),
}

/// A header that was read whole.
struct Header {
    fin: bool,
    opcode: u8,
    masked: bool,
    length: u64,
    mask: [u8; 4],
    /// Bytes of itself.
    size: usize,
}

impl Tracker {
    /// At the beginning of a stream.
    pub fn new(masking: Masking) -> Self {
        Self {
            left: 0,
            message_bytes: 0,
            mask: [0; 4],
            buffer: [0; MAX_HEADER],
            filled: 0,
            seen: 0,
            header: 0,
            position: FramePosition::Header,
            in_message: false,
            masking,
        }
    }

    /// Whether the next byte begins a frame.
    pub fn at_boundary(&self) -> bool {
        self.position == FramePosition::Header && self.filled == 0
    }

    /// Whether anything can still be told.
    pub fn fault(&self) -> Option<FrameError> {
        match self.position {
            FramePosition::Lost(fault) => Some(fault),
            _ => None,
        }
    }

    /// Bytes of a header that is not whole yet.
    pub fn partial(&self) -> usize {
        match self.position {
            FramePosition::Header => self.filled.into(),
            _ => 0,
        }
    }

    /// Bytes of the last header that was read.
    pub fn header_size(&self) -> usize {
        self.header.into()
    }

    /// Payload bytes of the frame at hand that are still to come.
    pub fn payload_left(&self) -> u64 {
        self.left
    }

    /// Goes on to the next event in `bytes`, and tells how many of them come before it; all of them
    /// if there is none.
    pub fn step(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        match self.position {
            FramePosition::Header => self.read_header(bytes),
            FramePosition::Data => {
                let length = self.skip(bytes.len());
                if self.left == 0 {
                    self.position = FramePosition::Header;
                    let (more, event) = self.read_header(bytes.get(length..).unwrap_or_default());
                    (length + more, event)
                } else {
                    (length, None)
                }
            }
            FramePosition::Control(kind) => self.read_control(kind, bytes),
            FramePosition::Lost(_) => (bytes.len(), None),
        }
    }

    fn skip(&mut self, most: usize) -> usize {
        let length = usize::try_from(self.left).map_or(most, |left| left.min(most));
        self.left -= length as u64;
        length
    }

    fn read_header(&mut self, bytes: &[u8]) -> (usize, Option<Event>) {
        if bytes.is_empty() {
            return (0, None);
        }
        if self.filled == 0
            && let Some(header) = Header::parse(bytes)
        {
            let event = self.begin(&header);
            return (header.size, Some(event));
        }
        // In pieces: collected until it is whole. What is looked at early is what makes it long.
        let mut taken = 0;
        for &byte in bytes {
            let filled = usize::from(self.filled);
            if let Some(position) = self.buffer.get_mut(filled) {
                *position = byte;
            }
            self.filled += 1;
            taken += 1;
            if let Some(header) = self.buffer.get(..=filled).and_then(Header::parse) {
                self.filled = 0;
                let event = self.begin(&header);
                return (taken, Some(event));
            }
        }
        (taken, None)
    }

    fn begin(&mut self, header: &Header) -> Event {
        let event = self.judge(header);
        (self.left, self.mask) = (header.length, header.mask);
        // At most 14.
        self.header = header.size as u8;
        self.position = match event {
            Ok(Event::Control(kind)) => {
                (self.seen, self.buffer) = (0, [0; MAX_HEADER]);
                FramePosition::Control(kind)
            }
            Ok(_) => FramePosition::Data,
            Err(fault) => FramePosition::Lost(fault),
        };
        event.unwrap_or_else(Event::Invalid)
    }

    fn judge(&mut self, header: &Header) -> Result<Event, FrameError> {
        if header.masked != (self.masking == Masking::Required) {
            return Err(FrameError::Masking);
        }
        if !header.length_is_minimal() {
            return Err(FrameError::Length);
        }
        if let Some(kind) = Control::of(header.opcode) {
            return if header.fin && header.length <= MAX_CONTROL_PAYLOAD {
                Ok(Event::Control(kind))
            } else {
                Err(FrameError::Control)
            };
        }
        let begins = match header.opcode {
            0x0 => false,
            0x1 | 0x2 => true,
            _ => return Err(FrameError::Opcode),
        };
        if begins == self.in_message {
            return Err(FrameError::Fragments);
        }
        let before = if begins { 0 } else { self.message_bytes };
        self.message_bytes = before.saturating_add(header.length);
        self.in_message = !header.fin;
        Ok(Event::Data {
            begins,
            message_bytes: self.message_bytes,
        })
    }

    fn read_control(&mut self, kind: Control, bytes: &[u8]) -> (usize, Option<Event>) {
        let length = self.skip(bytes.len());
        for byte in bytes.iter().take(length) {
            let at = usize::from(self.seen);
            if let (true, Some(position), Some(mask)) =
                (at < KEPT, self.buffer.get_mut(at), self.mask.get(at % 4))
            {
                *position = byte ^ mask;
            }
            self.seen += 1;
        }
        if self.left > 0 {
            return (length, None);
        }
        let mut payload = [0; KEPT];
        payload.copy_from_slice(&self.buffer[..KEPT]);
        self.position = FramePosition::Header;
        let event = Event::ControlEnd {
            kind,
            length: self.seen,
            payload,
        };
        (length, Some(event))
    }
}

impl Header {
    /// The header at the beginning of `bytes`, if it is there whole.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let &[first, second, ref rest @ ..] = bytes else {
            return None;
        };
        let masked = second & MASKED != 0;
        let (length, rest) = match second & !MASKED {
            126 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*length)), rest)
            }
            127 => {
                let (length, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*length), rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = if masked {
            let (mask, rest) = rest.split_first_chunk()?;
            (*mask, rest)
        } else {
            ([0; 4], rest)
        };
        Some(Self {
            fin: first & FIN != 0,
            opcode: first & OPCODE,
            masked,
            length,
            mask,
            size: bytes.len() - rest.len(),
        })
    }

    /// Whether the length is written in the shortest form, and within 63 bits (section 5.2).
    fn length_is_minimal(&self) -> bool {
        let extended = self.size - 2 - if self.masked { 4 } else { 0 };
        match extended {
            0 => true,
            2 => self.length > 125,
            _ => self.length > u64::from(u16::MAX) && self.length < 1 << 63,
        }
    }
}

/// A control frame of our own, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// With up to [`MAX_CONTROL_PAYLOAD`] bytes of `payload`; masked towards an endpoint, with an
    /// unpredictable `mask`.
    pub fn control(kind: Control, payload: &[u8], mask: Option<[u8; 4]>) -> Self {
        let payload = payload
            .get(..MAX_CONTROL_PAYLOAD as usize)
            .unwrap_or(payload);
        let mut bytes = Vec::with_capacity(payload.len() + 6);
        bytes.push(FIN | kind.opcode());
        // At most 125.
        let length = payload.len() as u8;
        bytes.push(length | if mask.is_some() { MASKED } else { 0 });
        bytes.extend(mask.into_iter().flatten());
        let mask = mask.unwrap_or_default();
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        Self(bytes)
    }

    /// A Close with a code and a reason (section 5.5.1).
    pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Self {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        Self::control(Control::Close, &payload, mask)
    }

    /// Whether it is a Ping.
    pub fn is_ping(&self) -> bool {
        self.0.first() == Some(&0x89)
    }

    /// Its bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests;
