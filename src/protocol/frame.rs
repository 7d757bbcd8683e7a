//! WebSocket frames in a byte stream: headers are parsed, payloads are skipped by their length (RFC
//! 6455 section 5).
//!
//! A [`Tracker`] sees the bytes of one direction in arbitrary pieces, and reports where frames
//! begin and end. It never looks into the payload of a message, only into that of control frames,
//! which are small and say why a connection ends. Reserved bits are left to the extensions that
//! both sides negotiated.

use super::opcode::Opcode;

/// The longest payload of a control frame (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD: u64 = 125;

/// How many bytes of a control frame's payload are kept: enough for a close code, and for all of a
/// Ping of ours.
pub const KEPT: usize = 8;

/// The longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

const FIN: u8 = 0x80;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

/// Whether frames are masked: clients must do that, servers must not (RFC 6455 section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// In the stream of a client.
    Required,
    /// In the stream of a server.
    Forbidden,
}

/// The kinds of control frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The last frame of a direction.
    Close,
    /// A request for a Pong with the same payload.
    Ping,
    /// The answer to a Ping.
    Pong,
}

impl Control {
    fn of(opcode: Opcode) -> Option<Self> {
        match opcode {
            Opcode::Close => Some(Self::Close),
            Opcode::Ping => Some(Self::Ping),
            Opcode::Pong => Some(Self::Pong),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => None,
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

impl From<Control> for Opcode {
    fn from(kind: Control) -> Self {
        match kind {
            Control::Close => Self::Close,
            Control::Ping => Self::Ping,
            Control::Pong => Self::Pong,
        }
    }
}

/// An event in the stream, at the position that the tracker has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The header of a data frame was read; its payload comes next.
    Data {
        /// Text or binary if the message begins with this frame.
        opcode: Opcode,
        /// The length of the message so far, including this frame.
        message_bytes: u64,
    },
    /// The header of a control frame was read; its payload comes next.
    Control(Control),
    /// The last byte of a control frame was read.
    ControlEnd {
        /// The kind of the frame.
        kind: Control,
        /// The length of its payload.
        length: u8,
        /// The first bytes of its payload, unmasked, padded with zeros.
        payload: [u8; KEPT],
    },
    /// The bytes are not valid frames: what follows cannot be interpreted.
    Invalid(FrameError),
}

/// Why a frame header is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The opcode is reserved.
    #[error("a frame has a reserved opcode")]
    Opcode,
    /// A frame of a client is not masked, or a frame of an endpoint is.
    #[error("a frame has the wrong masking: clients mask, servers do not")]
    Masking,
    /// The length is not encoded in the shortest form, or has more than 63 bits.
    #[error("the length of a frame is not in the shortest form, or exceeds 63 bits")]
    Length,
    /// A control frame is too long, or fragmented.
    #[error("a control frame is too long or fragmented")]
    Control,
    /// A continuation frame without a message, or a new message within a fragmented one.
    #[error("the fragments of messages are out of order")]
    Fragments,
}

/// Follows the frames of one direction.
#[derive(Debug, Clone)]
pub struct Tracker {
    /// Payload bytes of the current frame that are still to come.
    left: u64,
    /// Payload bytes of the current message so far.
    message_bytes: u64,
    mask: [u8; 4],
    /// The part of a header that has been read, or the kept part of a control frame's payload.
    buffer: [u8; MAX_HEADER],
    /// How many bytes of a header the buffer holds.
    filled: u8,
    /// Payload bytes of the control frame that were read.
    seen: u8,
    /// The length of the last header.
    header: u8,
    position: FramePosition,
    in_message: bool,
    masking: Masking,
}

/// The part of a frame that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramePosition {
    Header,
    Data,
    Control(Control),
    Lost(FrameError),
}

/// A complete frame header.
struct Header {
    fin: bool,
    opcode: u8,
    masked: bool,
    length: u64,
    mask: [u8; 4],
    /// The length of the header itself.
    size: usize,
}

impl Tracker {
    /// A tracker at the beginning of a stream.
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

    /// Whether a message has begun and its last fragment has not.
    pub fn in_message(&self) -> bool {
        self.in_message
    }

    /// Why the stream cannot be followed any longer, if so.
    pub fn error(&self) -> Option<FrameError> {
        match self.position {
            FramePosition::Lost(error) => Some(error),
            _ => None,
        }
    }

    /// How many bytes of an incomplete header have been read.
    pub fn partial(&self) -> usize {
        match self.position {
            FramePosition::Header => self.filled.into(),
            _ => 0,
        }
    }

    /// The length of the last complete header.
    pub fn header_size(&self) -> usize {
        self.header.into()
    }

    /// How many payload bytes of the current frame are still to come.
    pub fn payload_left(&self) -> u64 {
        self.left
    }

    /// Advances to the next event in `bytes`. Returns how many bytes come before it: all of them if
    /// there is no event.
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

    fn skip(&mut self, limit: usize) -> usize {
        let length = usize::try_from(self.left).map_or(limit, |left| left.min(limit));
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
        // The header arrives in pieces and is collected byte by byte until it is complete: its
        // length depends on its second byte.
        let mut taken = 0;
        for &byte in bytes {
            let filled = usize::from(self.filled);
            if let Some(slot) = self.buffer.get_mut(filled) {
                *slot = byte;
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
        let event = self.check(header);
        (self.left, self.mask) = (header.length, header.mask);
        // At most 14, so the cast loses nothing.
        self.header = header.size as u8;
        self.position = match event {
            Ok(Event::Control(kind)) => {
                (self.seen, self.buffer) = (0, [0; MAX_HEADER]);
                FramePosition::Control(kind)
            }
            Ok(_) => FramePosition::Data,
            Err(error) => FramePosition::Lost(error),
        };
        event.unwrap_or_else(Event::Invalid)
    }

    /// Checks a header by the rules of RFC 6455 sections 5.1, 5.2, 5.4 and 5.5.
    fn check(&mut self, header: &Header) -> Result<Event, FrameError> {
        if header.masked != (self.masking == Masking::Required) {
            return Err(FrameError::Masking);
        }
        if !header.length_is_minimal() {
            return Err(FrameError::Length);
        }
        let opcode = Opcode::of(header.opcode).ok_or(FrameError::Opcode)?;
        if let Some(kind) = Control::of(opcode) {
            return if header.fin && header.length <= MAX_CONTROL_PAYLOAD {
                Ok(Event::Control(kind))
            } else {
                Err(FrameError::Control)
            };
        }
        let begins = opcode.begins_message();
        if begins == self.in_message {
            return Err(FrameError::Fragments);
        }
        // Saturating: a peer that announces lengths near 2^63 must not make a long message short.
        let before = if begins { 0 } else { self.message_bytes };
        self.message_bytes = before.saturating_add(header.length);
        self.in_message = !header.fin;
        Ok(Event::Data {
            opcode,
            message_bytes: self.message_bytes,
        })
    }

    fn read_control(&mut self, kind: Control, bytes: &[u8]) -> (usize, Option<Event>) {
        let length = self.skip(bytes.len());
        for byte in bytes.iter().take(length) {
            let at = usize::from(self.seen);
            if let (true, Some(target), Some(mask)) =
                (at < KEPT, self.buffer.get_mut(at), self.mask.get(at % 4))
            {
                *target = byte ^ mask;
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
    /// The header at the beginning of `bytes`, if it is complete.
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

    /// Whether the length is encoded in the shortest form, and within 63 bits (RFC 6455 section
    /// 5.2).
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
    /// A control frame with up to [`MAX_CONTROL_PAYLOAD`] bytes of `payload`. Towards an endpoint
    /// it is masked, with a `mask` that must not be predictable (RFC 6455 section 5.3).
    pub fn control(kind: Control, payload: &[u8], mask: Option<[u8; 4]>) -> Self {
        let payload = payload
            .get(..MAX_CONTROL_PAYLOAD as usize)
            .unwrap_or(payload);
        let mut bytes = Vec::with_capacity(payload.len() + 6);
        bytes.push(FIN | kind.opcode());
        // At most 125, so the cast loses nothing.
        let length = payload.len() as u8;
        bytes.push(length | if mask.is_some() { MASKED } else { 0 });
        bytes.extend(mask.into_iter().flatten());
        let mask = mask.unwrap_or_default();
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        Self(bytes)
    }

    /// A Close frame with a code and a reason (RFC 6455 section 5.5.1).
    pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Self {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        Self::control(Control::Close, &payload, mask)
    }

    /// Whether the frame is a Ping.
    pub fn is_ping(&self) -> bool {
        self.0.first() == Some(&0x89)
    }

    /// The bytes of the frame.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests;
