//! Bytes that wait until they are taken.

/// What is left of some bytes, from the first that was not taken. It holds no memory while it is empty.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    taken: usize,
}

impl Rest {
    /// The bytes that are left.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }

    pub(super) fn append(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    /// Appends `count` bytes, which the caller fills in.
    pub(super) fn reserve(&mut self, count: usize) -> &mut [u8] {
        let before = self.bytes.len();
        self.bytes.resize(before + count, 0);
        self.bytes.get_mut(before..).unwrap_or_default()
    }

    /// Takes `count` bytes.
    pub(super) fn advance(&mut self, count: usize) {
        self.taken += count;
        if self.taken >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
impl Rest {
    /// The memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}
