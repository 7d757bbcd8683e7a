//! The client certificates that the open tunnels of a worker were opened with, each once.
//!
//! Many tunnels may have the same certificate, such as that of a proxy in front: it costs them a number each.

use std::cell::Cell;
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::rc::Rc;

use super::slots::Slots;
use crate::protocol::certificate::CertificateKey;

/// A table with room for more than this many times its entries gives memory back.
const MOST_SPARE: usize = 4;

/// The certificates of open tunnels.
#[derive(Debug, Default)]
pub(super) struct BoundCertificates {
    numbers: HashMap<Rc<[CertificateKey]>, NonZeroU32>,
    /// By their numbers, which begin at 1.
    chains: Slots<BoundCertificate>,
}

#[derive(Debug)]
struct BoundCertificate {
    chain: Rc<[CertificateKey]>,
    tunnels: Cell<u32>,
}

impl BoundCertificates {
    /// The number of certificates.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Counts a tunnel with the certificate of this chain; returns the number of the certificate.
    pub(super) fn enter(&mut self, chain: &[CertificateKey]) -> NonZeroU32 {
        if let Some(number) = self.numbers.get(chain) {
            if let Some(known) = self.chains.get(slot(*number)) {
                known.tunnels.set(known.tunnels.get() + 1);
            }
            return *number;
        }
        let chain: Rc<[CertificateKey]> = chain.into();
        let slot = self.chains.insert(BoundCertificate {
            chain: Rc::clone(&chain),
            tunnels: Cell::new(1),
        });
        // There are fewer tunnels than 32 bits count.
        let number = u32::try_from(slot + 1).ok().and_then(NonZeroU32::new);
        let number = number.unwrap_or(NonZeroU32::MAX);
        self.numbers.insert(chain, number);
        number
    }

    /// Counts a tunnel less with this certificate, which is forgotten with the last one.
    pub(super) fn leave(&mut self, number: NonZeroU32) {
        let Some(known) = self.chains.get(slot(number)) else {
            return;
        };
        let left = known.tunnels.get() - 1;
        known.tunnels.set(left);
        if left > 0 {
            return;
        }
        if let Some(known) = self.chains.remove(slot(number)) {
            self.numbers.remove(&known.chain);
        }
        // After a peak, the memory does not stay at its size.
        if self.numbers.capacity() / MOST_SPARE > self.numbers.len() {
            self.numbers.shrink_to(self.numbers.len() * 2);
        }
    }

    /// The keys of the chain of this certificate.
    pub(super) fn chain(&self, number: NonZeroU32) -> Option<&[CertificateKey]> {
        let known = self.chains.get(slot(number))?;
        Some(&known.chain)
    }
}

fn slot(number: NonZeroU32) -> usize {
    number.get() as usize - 1
}
