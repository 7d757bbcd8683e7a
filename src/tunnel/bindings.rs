//! What tunnels are bound to: the end of a credential, its subject, and the client certificate.
//!
//! It is kept beside the slots of the table, so that tunnels of routes without authentication cost nothing for
//! it, and the others 16 bytes each. The certificate is a number in these: what there is to know of one is kept once
//! for all of its tunnels.

use std::cell::RefCell;
use std::num::{NonZeroU32, NonZeroU64};

use super::bound_certificates::BoundCertificates;
use crate::protocol::certificate::CertificateKey;

/// Slots in a page: with their count, 4 KiB, a size class of the allocator.
const PAGE_SLOTS: usize = 255;

/// What a tunnel is bound to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelBinding {
    /// When it has to end, in seconds since 1970 by the clock of the system, by which credentials expire, too.
    pub ends: Option<NonZeroU32>,
    /// The subject of its credential, as a keyed hash.
    pub subject: Option<NonZeroU64>,
}

/// What is kept of a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct BoundSlot {
    ends: Option<NonZeroU32>,
    /// The number of the client certificate.
    certificate: Option<NonZeroU32>,
    subject: Option<NonZeroU64>,
}

impl BoundSlot {
    const FREE: Self = Self {
        ends: None,
        certificate: None,
        subject: None,
    };
}

/// The bindings of a worker's tunnels, by their slots.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    pages: RefCell<Vec<Option<Box<BindingPage>>>>,
    certificates: RefCell<BoundCertificates>,
}

#[derive(Debug)]
struct BindingPage {
    slots: [BoundSlot; PAGE_SLOTS],
    /// How many of them bind something.
    bound: usize,
}

impl Bindings {
    /// Binds the tunnel in this slot.
    pub(super) fn set(&self, slot: usize, binding: TunnelBinding) {
        let TunnelBinding { ends, subject } = binding;
        let certificate = self.slot(slot).certificate;
        let bound = BoundSlot {
            ends,
            certificate,
            subject,
        };
        self.set_slot(slot, bound);
    }

    /// Binds the tunnel in this slot to a client certificate: to the keys of its chain.
    pub(super) fn set_certificate(&self, slot: usize, chain: &[CertificateKey]) {
        let bound = self.slot(slot);
        let mut certificates = self.certificates.borrow_mut();
        let certificate = Some(certificates.enter(chain));
        if let Some(earlier) = bound.certificate {
            certificates.leave(earlier);
        }
        self.set_slot(
            slot,
            BoundSlot {
                certificate,
                ..bound
            },
        );
    }

    /// Forgets the tunnel in this slot.
    pub(super) fn clear(&self, slot: usize) {
        if let Some(certificate) = self.slot(slot).certificate {
            self.certificates.borrow_mut().leave(certificate);
        }
        self.set_slot(slot, BoundSlot::FREE);
    }

    /// Whether the tunnel in this slot was opened with a client certificate whose chain satisfies `is_wanted`.
    pub(super) fn has_certificate(
        &self,
        slot: usize,
        is_wanted: impl FnOnce(&[CertificateKey]) -> bool,
    ) -> bool {
        let certificate = self.slot(slot).certificate;
        let certificates = self.certificates.borrow();
        let chain = certificate.and_then(|number| certificates.chain(number));
        chain.is_some_and(is_wanted)
    }

    fn set_slot(&self, slot: usize, binding: BoundSlot) {
        let mut pages = self.pages.borrow_mut();
        let at = slot / PAGE_SLOTS;
        if binding == BoundSlot::FREE && pages.get(at).is_none_or(Option::is_none) {
            return;
        }
        if pages.len() <= at {
            pages.resize_with(at + 1, || None);
        }
        let Some(place) = pages.get_mut(at) else {
            return;
        };
        let page = place.get_or_insert_with(|| {
            Box::new(BindingPage {
                slots: [BoundSlot::FREE; PAGE_SLOTS],
                bound: 0,
            })
        });
        if let Some(bound) = page.slots.get_mut(slot % PAGE_SLOTS) {
            page.bound += usize::from(binding != BoundSlot::FREE);
            page.bound -= usize::from(*bound != BoundSlot::FREE);
            *bound = binding;
        }
        // After a peak, the memory does not stay at its size.
        if page.bound == 0 {
            *place = None;
        }
    }

    /// What the tunnel in this slot is bound to.
    pub(super) fn get(&self, slot: usize) -> TunnelBinding {
        let BoundSlot { ends, subject, .. } = self.slot(slot);
        TunnelBinding { ends, subject }
    }

    fn slot(&self, slot: usize) -> BoundSlot {
        let pages = self.pages.borrow();
        let page = pages.get(slot / PAGE_SLOTS).and_then(Option::as_ref);
        let bound = page.and_then(|page| page.slots.get(slot % PAGE_SLOTS));
        bound.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_takes_sixteen_bytes() {
        assert_eq!(size_of::<BoundSlot>(), 16);
        assert!(size_of::<BindingPage>() <= 4096);
    }

    #[test]
    fn slots_are_bound_and_free_pages_are_given_back() {
        let bindings = Bindings::default();
        let binding = |number: usize| TunnelBinding {
            ends: u32::try_from(number + 1).ok().and_then(NonZeroU32::new),
            subject: NonZeroU64::new(number as u64),
        };
        let pages = || {
            let pages = bindings.pages.borrow();
            pages.iter().filter(|page| page.is_some()).count()
        };
        bindings.set(5000, TunnelBinding::default());
        assert_eq!((pages(), bindings.pages.borrow().len()), (0, 0));
        for slot in (0..2000).step_by(3) {
            bindings.set(slot, binding(slot));
        }
        assert_eq!(pages(), 2000_usize.div_ceil(PAGE_SLOTS));
        for slot in 0..3000 {
            let expected = match slot < 2000 && slot % 3 == 0 {
                true => binding(slot),
                false => TunnelBinding::default(),
            };
            assert_eq!(bindings.get(slot), expected, "{slot}");
        }
        bindings.set(3, binding(7));
        assert_eq!(bindings.get(3), binding(7));
        for slot in 0..2000 {
            bindings.clear(slot);
        }
        assert_eq!(pages(), 0);
    }

    #[test]
    fn tunnels_of_one_certificate_share_what_is_known_of_it() {
        let bindings = Bindings::default();
        let keys = [b"one", b"two"].map(|serial| CertificateKey::of(b"issuer", serial));
        let has = |slot, key| bindings.has_certificate(slot, |chain| chain.contains(&key));
        let known = || bindings.certificates.borrow().len();
        for slot in 0..100 {
            bindings.set_certificate(slot, &keys[..1 + slot % 2]);
        }
        assert_eq!(known(), 2);
        let ends = NonZeroU32::new(1000);
        let subject = None;
        bindings.set(0, TunnelBinding { ends, subject });
        assert_eq!(bindings.get(0).ends, ends);
        assert!(has(0, keys[0]) && !has(0, keys[1]), "its certificate stays");
        assert!(has(1, keys[0]) && has(1, keys[1]), "and its issuer's");
        assert!(!has(100, keys[0]), "no tunnel");
        for slot in (1..100).step_by(2) {
            bindings.clear(slot);
        }
        assert_eq!(known(), 1);
        assert!(!has(1, keys[0]));
        for slot in 0..100 {
            bindings.clear(slot);
        }
        assert_eq!(known(), 0);
        assert!(bindings.pages.borrow().iter().all(Option::is_none));
    }
}
