//! Weighted rendezvous hashing: which endpoint a key belongs to.
//!
//! Every endpoint has a score for every key, and the highest score wins. Scores do not depend on other
//! endpoints: if an endpoint is removed, only its own keys move; if one is added, it gets its share
//! from each of the others. There is no table to build, and proxies agree without talking to each
//! other, as long as the calculations in this file never change.

use std::cmp::Ordering;

use aws_lc_rs::digest;

/// The number of an endpoint for hashing, the same in every process and on every machine.
pub fn identity(label: &str) -> u64 {
    digest_of("endpoint", label.as_bytes())
}

/// The number of a key for hashing, the same in every process and on every machine.
pub fn key_hash(key: &[u8]) -> u64 {
    digest_of("key", key)
}

/// The place of a key in a split, from 0 to 1, the same in every process and on every machine. It does not
/// depend on [`key_hash`]: which endpoint a key belongs to says nothing about its place here.
pub fn split_point(key: &[u8]) -> f64 {
    (digest_of("split", key) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The first 64 bits of SHA-256. The kind is hashed, too, so that a key which is spelled like an
/// endpoint has a different number.
fn digest_of(kind: &str, bytes: &[u8]) -> u64 {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(kind.as_bytes());
    hash.update(&[0]);
    hash.update(bytes);
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    u64::from_be_bytes(first)
}

/// The score of an endpoint for a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score {
    draw: u64,
    weight: u32,
    identity: u64,
}

impl Score {
    /// The score for this key. The draw is one step of SplitMix64: fast, and well mixed even for inputs
    /// that differ in a single bit.
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

    /// Compares `-weight / ln(draw)` with the other's. With this score an endpoint wins as often as its
    /// weight says: `-ln(draw) / weight` is the time to the first event of a process with that rate,
    /// and the earliest time wins. For equal weights the draws alone decide, without a logarithm.
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
        // A float holds 53 bits. The half keeps the number off 0 and 1, where the logarithm is
        // infinite or zero.
        (((self.draw >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
    }
}
