//! Where a key belongs: weighted rendezvous hashing.
//!
//! Every endpoint has a score for every key, and the highest one wins. The scores of two endpoints
//! have nothing to do with a third: one that goes away hands on its own keys only, one that comes
//! takes its share from each. There is no table to build, and nothing that processes would have to
//! agree on but this file: what is in it never changes.

use std::cmp::Ordering;

use aws_lc_rs::digest;

/// The number by which an endpoint takes part: the same in every process, on every machine.
pub fn identity(label: &str) -> u64 {
    digest_of("endpoint", label.as_bytes())
}

/// The number that stands for a key, likewise.
pub fn key_hash(key: &[u8]) -> u64 {
    digest_of("key", key)
}

/// Two that are spelled the same are still two if they are not the same thing.
fn digest_of(thing: &str, bytes: &[u8]) -> u64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(thing.as_bytes());
    hash.update(&[0]);
    hash.update(bytes);
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    u64::from_be_bytes(first)
}

/// What an endpoint has to show for a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    draw: u64,
    weight: u32,
    identity: u64,
}

impl Score {
    /// The endpoint's draw for this key is one step of SplitMix64.
    pub(super) fn new(key: u64, identity: u64, weight: u32) -> Self {
        let mut draw = (key ^ identity).wrapping_add(0x9e37_79b9_7f4a_7c15);
        draw = (draw ^ (draw >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        draw = (draw ^ (draw >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        draw ^= draw >> 31;
        Self {
            draw,
            weight,
            identity,
        }
    }

    /// `-weight / ln(draw)` against the other's. Whoever has the greatest one of several draws wins
    /// as often as its weight says: the negated logarithm, by weight, is a time to the first of
    /// events that happen at this rate. Of equal weights the draws alone decide, and no logarithm
    /// is taken.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let by_score = if self.weight == other.weight {
            self.draw.cmp(&other.draw)
        } else {
            let mine = self.logarithm() * f64::from(other.weight);
            mine.total_cmp(&(other.logarithm() * f64::from(self.weight)))
        };
        by_score.then_with(|| self.identity.cmp(&other.identity))
    }

    fn logarithm(&self) -> f64 {
        // The 53 bits that a float holds, and never 0 or 1.
        (((self.draw >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
    }
}
