//! The tokens whose signatures were verified lately, so that a client that comes back costs no second verification.
//!
//! Only that is remembered, of tokens that were accepted: what a token says, its time and its subject are checked again
//! for each request. A token is remembered together with the key set that has verified it, so that another set never
//! accepts it for that.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};

/// The most tokens that a worker remembers. They take up to 1.6 MB.
pub const MAX_VERIFIED_TOKENS: usize = 16_384;

const DIGEST_BYTES: usize = 32;

/// The number of a key set. No other one of this process ever has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeySetNumber(u64);

impl KeySetNumber {
    /// One that was not given out before.
    pub(super) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// A token and the key set that verifies it, as a hash: the memory of the process has no list of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenDigest([u8; DIGEST_BYTES]);

impl TokenDigest {
    /// The digest of a whole token, signature included.
    pub(super) fn of(token: &str, keys: KeySetNumber) -> Self {
        let mut context = Context::new(&SHA256);
        // Of fixed length, so that no token continues it.
        context.update(&keys.0.to_be_bytes());
        context.update(token.as_bytes());
        let digest = context.finish();
        let mut bytes = [0; DIGEST_BYTES];
        for (byte, from) in bytes.iter_mut().zip(digest.as_ref()) {
            *byte = *from;
        }
        Self(bytes)
    }
}

/// The tokens of all issuers whose signatures one worker has verified lately. The oldest make room for others.
#[derive(Debug, Default)]
pub struct VerifiedTokens {
    tokens: RefCell<RememberedTokens>,
}

#[derive(Debug, Default)]
struct RememberedTokens {
    known: HashSet<TokenDigest>,
    /// In the order in which they came.
    order: VecDeque<TokenDigest>,
}

impl VerifiedTokens {
    /// Whether the key set has verified the token.
    pub(super) fn contains(&self, digest: &TokenDigest) -> bool {
        self.tokens.borrow().known.contains(digest)
    }

    /// Remembers a token that was accepted just now.
    pub(super) fn insert(&self, digest: TokenDigest) {
        let mut tokens = self.tokens.borrow_mut();
        if !tokens.known.insert(digest) {
            return;
        }
        if tokens.order.len() >= MAX_VERIFIED_TOKENS
            && let Some(oldest) = tokens.order.pop_front()
        {
            tokens.known.remove(&oldest);
        }
        tokens.order.push_back(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_to_the_set_that_has_verified_it() {
        let tokens = VerifiedTokens::default();
        let [ours, other] = [(); 2].map(|()| KeySetNumber::next());
        tokens.insert(TokenDigest::of("a.b.c", ours));
        assert!(tokens.contains(&TokenDigest::of("a.b.c", ours)));
        assert!(!tokens.contains(&TokenDigest::of("a.b.c", other)));
        for changed in ["a.b.d", "a.b.", "a.b.cc", ".b.c", ""] {
            assert!(
                !tokens.contains(&TokenDigest::of(changed, ours)),
                "{changed}"
            );
        }
    }

    #[test]
    fn their_number_is_bounded_and_the_oldest_go_first() {
        let (tokens, keys) = (VerifiedTokens::default(), KeySetNumber::next());
        let digest = |number: usize| TokenDigest::of(&number.to_string(), keys);
        for number in 0..MAX_VERIFIED_TOKENS + 10 {
            tokens.insert(digest(number));
            // The same one again takes no room.
            tokens.insert(digest(number));
        }
        let remembered = tokens.tokens.borrow();
        assert_eq!(remembered.known.len(), MAX_VERIFIED_TOKENS);
        assert_eq!(remembered.order.len(), MAX_VERIFIED_TOKENS);
        drop(remembered);
        assert!(!tokens.contains(&digest(9)) && tokens.contains(&digest(10)));
    }
}
