//! WebSocket frames as bytes, and repeatable random numbers.

/// Pseudo-random numbers from a seed (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `max`.
    pub(crate) fn up_to(&mut self, max: usize) -> usize {
        (self.next() % (max as u64 + 1)).try_into().unwrap()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// A frame whose first byte (FIN, reserved bits, opcode) is `first`.
pub(crate) fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => frame.push(masked | length as u8),
        length @ 126..=65535 => {
            frame.push(masked | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(masked | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask.into_iter().flatten());
    let mask = mask.unwrap_or_default();
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The payload of the last Close among these frames: its code and reason.
pub(crate) fn close_payload(bytes: &[u8]) -> Option<Vec<u8>> {
    let closes = frames(bytes).into_iter().filter(|it| it.0 == 0x88);
    closes.map(|it| it.1).next_back()
}

/// The payload of a Close with this code and reason.
pub(crate) fn close(code: u16, reason: &str) -> Option<Vec<u8>> {
    Some([&code.to_be_bytes(), reason.as_bytes()].concat())
}

/// The complete frames in these bytes: the first byte and the unmasked payload of each.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (size, masked) = (usize::from(length & 0x7f), length & 0x80 != 0);
        let extended = [0, 2, 8][size.saturating_sub(125)];
        let header = extended + if masked { 4 } else { 0 };
        if rest.len() < header {
            break;
        }
        let (header, rest) = rest.split_at(header);
        let (extended, mask) = header.split_at(extended);
        let number = extended
            .iter()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let size = if extended.is_empty() { size } else { number };
        if rest.len() < size {
            break;
        }
        let (payload, rest) = rest.split_at(size);
        let mask = if masked { mask } else { &[0] };
        let unmasked = payload.iter().zip(mask.iter().cycle());
        frames.push((*first, unmasked.map(|(byte, mask)| byte ^ mask).collect()));
        bytes = rest;
    }
    frames
}
