//! A client of HTTP/2 that writes frames as it likes, valid or not (RFC 9113 section 4).

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::h2_client::{H2Proxy, HOST};
use super::wire::Wire;
use super::within;

/// What a client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The error codes that tests look for (RFC 9113 section 7).
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// What a server does about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It responds.
    Status(u16),
    /// It resets the stream, with this code.
    Reset(u32),
    /// It ends the connection, with this code.
    GoAway(u32),
    /// It closes the connection without a word.
    Closed,
}

/// A connection on which the test writes the frames.
pub(crate) struct RawH2 {
    wire: Wire,
}

/// A frame as bytes.
pub(crate) fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Fields as a header block that uses no table and no compression (RFC 7541 section 6.2.2).
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A number with a prefix of seven bits whose first one is zero (RFC 7541 section 5.1).
fn integer(block: &mut Vec<u8>, number: usize) {
    let Some(mut rest) = number.checked_sub(127) else {
        return block.push(number as u8);
    };
    block.push(127);
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The head of a GET request.
pub(crate) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/"),
];

/// The head of an extended CONNECT for a WebSocket.
pub(crate) const OPEN: [(&str, &str); 6] = [
    (":method", "CONNECT"),
    (":protocol", "websocket"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/chat"),
    ("sec-websocket-version", "13"),
];

impl RawH2 {
    /// Connects, and sends what a connection begins with. The server may not refer to earlier fields in responses.
    pub(crate) async fn connect(proxy: &H2Proxy) -> Self {
        let mut raw = Self {
            wire: Wire::over(proxy.offering(&[b"h2"]).await),
        };
        raw.send(PREFACE).await;
        let no_table = [0, 1, 0, 0, 0, 0];
        raw.send(raw_frame(SETTINGS, 0, 0, &no_table)).await;
        raw
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).await;
    }

    /// Sends as much of this as the server takes before it closes the connection; whether that was all.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sent = async {
            self.wire.write_all(bytes).await?;
            self.wire.flush().await
        };
        within("bytes to be taken", sent).await.is_ok()
    }

    /// Sends this at most `times` times, as long as the server reads. Returns the number of bytes sent.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) -> usize {
        self.wire.flood_up_to(bytes, times).await
    }

    /// Sends the head of a request.
    pub(crate) async fn open(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        let flags = flags | END_HEADERS;
        let frame = raw_frame(HEADERS, flags, stream, &block(fields));
        self.send(frame).await;
    }

    /// The next frame; `None` if the connection has ended.
    pub(crate) async fn frame(&mut self) -> Option<RawFrame> {
        within("a frame", async {
            let mut head = [0; 9];
            self.wire.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.wire.read_exact(&mut payload).await.ok()?;
            Some(RawFrame {
                kind,
                flags,
                stream: u32::from_be_bytes(stream) & 0x7fff_ffff,
                payload,
            })
        })
        .await
    }

    /// Waits until a stream has this much credit, of which `left` is left, and takes it. Not if none comes for a while:
    /// then `left` is what is left for good.
    pub(crate) async fn credit(&mut self, stream: u32, left: &mut i64, wanted: i64) -> bool {
        /// Longer than a busy machine keeps a process waiting.
        const STALLED: std::time::Duration = std::time::Duration::from_secs(1);
        while *left < wanted * 2 {
            match tokio::time::timeout(STALLED, self.frame_of(WINDOW_UPDATE)).await {
                Ok(Some(update)) if update.stream == stream => {
                    *left += i64::from(number(&update.payload));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
        *left -= wanted;
        true
    }

    /// The next frame of this kind, without those before it.
    pub(crate) async fn frame_of(&mut self, kind: u8) -> Option<RawFrame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// What the server does about this stream.
    pub(crate) async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            let Some(frame) = self.frame().await else {
                return Outcome::Closed;
            };
            match frame.kind {
                HEADERS if frame.stream == stream => {
                    return Outcome::Status(status(&frame.payload));
                }
                RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(number(&frame.payload));
                }
                GOAWAY => {
                    let code = number(&frame.payload[4..]);
                    // Without an error, it answers what has begun.
                    if code != 0 {
                        return Outcome::GoAway(code);
                    }
                }
                _ => {}
            }
        }
    }

    /// How the server ends the connection: the code of its last GOAWAY.
    pub(crate) async fn ended(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame().await {
            if frame.kind == GOAWAY {
                code = Some(number(&frame.payload[4..]));
            }
        }
        code
    }

    /// Asserts that the connection works: a PING is answered.
    pub(crate) async fn lives(&mut self) {
        self.send(raw_frame(PING, 0, 0, b"still on")).await;
        loop {
            let frame = self.frame_of(PING).await.expect("a connection that lives");
            if frame.flags == ACK && frame.payload == b"still on" {
                return;
            }
        }
    }
}

/// The number at the beginning of a payload.
fn number(payload: &[u8]) -> u32 {
    let (bytes, _) = payload.split_first_chunk().unwrap();
    u32::from_be_bytes(*bytes)
}

/// The status, with which each header block of a response begins: as the index of a common one, or as a value of
/// `:status`.
fn status(block: &[u8]) -> u16 {
    const COMMON: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        // A change of the table's size comes first.
        [0x20..=0x3f, rest @ ..] => status(rest),
        [index @ 0x88..=0x8e, ..] => COMMON[usize::from(index - 0x88)],
        [0x48 | 0x08 | 0x18, length, rest @ ..] if length & 0x80 == 0 => {
            let digits = &rest[..usize::from(*length)];
            String::from_utf8(digits.to_vec()).unwrap().parse().unwrap()
        }
        [0x48 | 0x08 | 0x18, length, rest @ ..] => digits(&rest[..usize::from(length & 0x7f)]),
        _ => panic!("a header block that does not begin with a status: {block:02x?}"),
    }
}

/// Three digits in the code of RFC 7541 appendix B: five bits for 0 to 2, six for the others.
fn digits(coded: &[u8]) -> u16 {
    let mut bits = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut take = |count: usize| {
        let taken = bits.by_ref().take(count);
        taken.fold(0, |number, bit| number << 1 | u16::from(bit))
    };
    let mut number = 0;
    for _ in 0..3 {
        let digit = match take(5) {
            short @ 0..=2 => short,
            long => (long << 1 | take(1)) - 0b011_001 + 3,
        };
        number = number * 10 + digit;
    }
    number
}

#[test]
fn statuses_are_read_however_they_are_written() {
    assert_eq!(status(&[0x88]), 200);
    assert_eq!(status(&[0x20, 0x8c, 0x00]), 400);
    assert_eq!(status(b"\x08\x03431"), 431);
    // RFC 7541 appendix C.6.1 and C.6.2: 302 and 307.
    assert_eq!(status(&[0x48, 0x82, 0x64, 0x02]), 302);
    assert_eq!(status(&[0x48, 0x83, 0x64, 0x0e, 0xff]), 307);
}
