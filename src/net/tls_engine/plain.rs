//! Plaintext on its way into records, from several places in memory.

use std::io::IoSlice;

use super::MAX_PLAIN;

/// Cuts plaintext into pieces that are contiguous, one for each record.
#[derive(Debug)]
pub(super) struct Pieces<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// How many bytes of the first slice were taken.
    taken: usize,
    gathered: &'a mut [u8],
}

impl<'a, 'b> Pieces<'a, 'b> {
    /// The pieces of `slices`. Where a piece is in several of them, it is copied to `gathered`, which has the room
    /// for a record.
    pub(super) fn new(slices: &'a [IoSlice<'b>], gathered: &'a mut [u8]) -> Self {
        debug_assert!(gathered.len() >= MAX_PLAIN, "{}", gathered.len());
        Self {
            slices,
            taken: 0,
            gathered,
        }
    }

    /// The next piece: `most` bytes, or all that are left if they are fewer.
    pub(super) fn next(&mut self, most: usize) -> &[u8] {
        let first = self.first();
        let is_last = self.slices.iter().skip(1).all(|slice| slice.is_empty());
        if first.len() >= most || is_last {
            let count = first.len().min(most);
            self.taken += count;
            return first.get(..count).unwrap_or_default();
        }
        let mut length = 0;
        while length < most.min(self.gathered.len()) && !self.slices.is_empty() {
            let first = self.first();
            let room = self.gathered.get_mut(length..most).unwrap_or_default();
            let count = first.len().min(room.len());
            if let (Some(place), Some(bytes)) = (room.get_mut(..count), first.get(..count)) {
                place.copy_from_slice(bytes);
            }
            length += count;
            self.taken += count;
        }
        self.gathered.get(..length).unwrap_or_default()
    }

    /// What is left of the first slice that has anything left.
    fn first(&mut self) -> &'a [u8] {
        while let Some((first, others)) = self.slices.split_first() {
            if let Some(left) = first.get(self.taken..)
                && !left.is_empty()
            {
                return left;
            }
            (self.slices, self.taken) = (others, 0);
        }
        &[]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_plaintext_in_order_and_as_long_as_possible(
            slices in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8),
            most in 1_usize..60,
        ) {
            let all: Vec<u8> = slices.concat();
            let slices: Vec<IoSlice<'_>> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
            let mut gathered = vec![0; MAX_PLAIN];
            let mut pieces = Pieces::new(&slices, &mut gathered);
            let mut left = all.as_slice();
            loop {
                let expected = &left[..left.len().min(most)];
                prop_assert_eq!(pieces.next(most), expected);
                if expected.is_empty() {
                    break;
                }
                left = &left[expected.len()..];
            }
        }
    }
}
