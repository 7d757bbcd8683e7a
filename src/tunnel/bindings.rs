//! What tunnels are bound to: the end of a credential, and its subject.
//!
//! It is kept beside the slots of the table, so that tunnels of routes without authentication cost nothing for
//! it, and the others 16 bytes each.

use std::cell::RefCell;
use std::num::{NonZeroU32, NonZeroU64};

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

impl TunnelBinding {
    const NONE: Self = Self {
        ends: None,
        subject: None,
    };
}

/// The bindings of a worker's tunnels, by their slots.
#[derive(Debug, Default)]
pub(super) struct Bindings(RefCell<Vec<Option<Box<BindingPage>>>>);

#[derive(Debug)]
struct BindingPage {
    bindings: [TunnelBinding; PAGE_SLOTS],
    /// How many of them bind something.
    bound: usize,
}

impl Bindings {
    /// Binds the tunnel in this slot.
    pub(super) fn set(&self, slot: usize, binding: TunnelBinding) {
        let mut pages = self.0.borrow_mut();
        let at = slot / PAGE_SLOTS;
        if binding == TunnelBinding::NONE && pages.get(at).is_none_or(Option::is_none) {
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
                bindings: [TunnelBinding::NONE; PAGE_SLOTS],
                bound: 0,
            })
        });
        if let Some(bound) = page.bindings.get_mut(slot % PAGE_SLOTS) {
            page.bound += usize::from(binding != TunnelBinding::NONE);
            page.bound -= usize::from(*bound != TunnelBinding::NONE);
            *bound = binding;
        }
        // After a peak, the memory does not stay at its size.
        if page.bound == 0 {
            *place = None;
        }
    }

    /// What the tunnel in this slot is bound to.
    pub(super) fn get(&self, slot: usize) -> TunnelBinding {
        let pages = self.0.borrow();
        let page = pages.get(slot / PAGE_SLOTS).and_then(Option::as_ref);
        let bound = page.and_then(|page| page.bindings.get(slot % PAGE_SLOTS));
        bound.copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_takes_sixteen_bytes() {
        assert_eq!(size_of::<TunnelBinding>(), 16);
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
            let pages = bindings.0.borrow();
            pages.iter().filter(|page| page.is_some()).count()
        };
        bindings.set(5000, TunnelBinding::NONE);
        assert_eq!((pages(), bindings.0.borrow().len()), (0, 0));
        for slot in (0..2000).step_by(3) {
            bindings.set(slot, binding(slot));
        }
        assert_eq!(pages(), 2000_usize.div_ceil(PAGE_SLOTS));
        for slot in 0..3000 {
            let expected = match slot < 2000 && slot % 3 == 0 {
                true => binding(slot),
                false => TunnelBinding::NONE,
            };
            assert_eq!(bindings.get(slot), expected, "{slot}");
        }
        bindings.set(3, binding(7));
        assert_eq!(bindings.get(3), binding(7));
        for slot in 0..2000 {
            bindings.set(slot, TunnelBinding::NONE);
        }
        assert_eq!(pages(), 0);
    }
}
