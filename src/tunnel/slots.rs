//! Numbered slots for the tunnels or streams of a worker, in pages that come and go.
//!
//! A slot keeps its number for as long as it is taken. New tunnels go to the lowest page with room,
//! and a page without tunnels is freed, but for the first one: after a peak, neither memory nor the walks over the table
//! stay at its size. Nothing is ever moved, so that no insertion has to copy a million slots.

/// Slots in a page. With two pointers in each, that is 4 KiB.
const PAGE_SLOTS: usize = PAGE_WORDS * WORD_SLOTS;
const PAGE_WORDS: usize = 4;
const WORD_SLOTS: usize = u64::BITS as usize;

/// The slots.
#[derive(Debug)]
pub struct Slots<T> {
    pages: Vec<Option<Box<SlotPage<T>>>>,
    /// A bit for each page that is known to have room: those that are taken and not full.
    with_room: Vec<u64>,
    len: usize,
}

#[derive(Debug)]
struct SlotPage<T> {
    values: [Option<T>; PAGE_SLOTS],
    /// A bit for each slot that is taken.
    taken: [u64; PAGE_WORDS],
}

impl<T> SlotPage<T> {
    fn new() -> Box<Self> {
        Box::new(Self {
            values: [const { None }; PAGE_SLOTS],
            taken: [0; PAGE_WORDS],
        })
    }

    fn first_free(&self) -> Option<usize> {
        let word = self.taken.iter().position(|word| *word != u64::MAX)?;
        let bit = self.taken.get(word)?.trailing_ones() as usize;
        Some(word * WORD_SLOTS + bit)
    }

    fn mark(&mut self, slot: usize, is_taken: bool) {
        if let Some(word) = self.taken.get_mut(slot / WORD_SLOTS) {
            let bit = 1 << (slot % WORD_SLOTS);
            *word = if is_taken { *word | bit } else { *word & !bit };
        }
    }

    fn is_full(&self) -> bool {
        self.taken.iter().all(|word| *word == u64::MAX)
    }

    fn is_empty(&self) -> bool {
        self.taken.iter().all(|word| *word == 0)
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            with_room: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Slots<T> {
    /// The number of slots that are taken.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What a walk over all slots costs, in the unit of its `budget`.
    pub fn walk_cost(&self) -> usize {
        self.len + self.pages.len() * PAGE_WORDS
    }

    /// Puts `value` into a free slot: the first of the lowest page with room.
    pub fn insert(&mut self, value: T) -> usize {
        let number = self.page_with_room();
        if number >= self.pages.len() {
            self.pages.resize_with(number + 1, || None);
        }
        let Some(page) = self.pages.get_mut(number) else {
            unreachable!("the page was added if it was missing")
        };
        let page = page.get_or_insert_with(SlotPage::new);
        let Some(slot) = page.first_free() else {
            unreachable!("the page has room")
        };
        if let Some(place) = page.values.get_mut(slot) {
            *place = Some(value);
        }
        page.mark(slot, true);
        let has_room = !page.is_full();
        self.set_room(number, has_room);
        self.len += 1;
        number * PAGE_SLOTS + slot
    }

    /// The value in `slot`, if it is taken.
    pub fn get(&self, slot: usize) -> Option<&T> {
        let page = self.pages.get(slot / PAGE_SLOTS)?.as_ref()?;
        page.values.get(slot % PAGE_SLOTS)?.as_ref()
    }

    /// Frees `slot`; returns what was in it.
    pub fn remove(&mut self, slot: usize) -> Option<T> {
        let number = slot / PAGE_SLOTS;
        let entry = self.pages.get_mut(number)?;
        let page = entry.as_mut()?;
        let value = page.values.get_mut(slot % PAGE_SLOTS)?.take()?;
        page.mark(slot % PAGE_SLOTS, false);
        // The first page stays: a worker that has one request at a time must not make a page for each of them.
        let is_freed = number > 0 && page.is_empty();
        if is_freed {
            *entry = None;
        }
        self.set_room(number, !is_freed);
        self.len -= 1;
        while let Some(None) = self.pages.last() {
            self.pages.pop();
        }
        Some(value)
    }

    /// Shows the slots that are taken to `visit`, beginning with `from`, until about `budget` of
    /// them have been seen. Returns where to continue, if there is more.
    ///
    /// Free slots cost next to nothing: a word of them as much as one that is taken.
    pub fn walk(
        &self,
        from: usize,
        mut budget: usize,
        mut visit: impl FnMut(usize, &T),
    ) -> Option<usize> {
        let mut at = from;
        while let Some(page) = self.pages.get(at / PAGE_SLOTS) {
            if budget == 0 {
                return Some(at);
            }
            let Some(page) = page else {
                at = (at / PAGE_SLOTS + 1) * PAGE_SLOTS;
                budget -= 1;
                continue;
            };
            let (word, bit) = (at % PAGE_SLOTS / WORD_SLOTS, at % WORD_SLOTS);
            let first = at - bit;
            let mut taken = page.taken.get(word).copied().unwrap_or(0) & (u64::MAX << bit);
            budget = budget.saturating_sub(1 + taken.count_ones() as usize);
            while taken != 0 {
                let slot = first + taken.trailing_zeros() as usize;
                taken &= taken - 1;
                if let Some(Some(value)) = page.values.get(slot % PAGE_SLOTS) {
                    visit(slot, value);
                }
            }
            at = first + WORD_SLOTS;
        }
        None
    }

    /// Shows all slots that are taken to `visit`.
    pub fn for_each(&self, visit: impl FnMut(usize, &T)) {
        self.walk(0, usize::MAX, visit);
    }

    /// The lowest page with room, or else the lowest one that does not exist.
    fn page_with_room(&self) -> usize {
        let words = self.with_room.iter().enumerate();
        let first = words
            .filter(|(_, word)| **word != 0)
            .map(|(number, word)| number * WORD_SLOTS + word.trailing_zeros() as usize)
            .next();
        let free = || self.pages.iter().position(Option::is_none);
        first.or_else(free).unwrap_or(self.pages.len())
    }

    fn set_room(&mut self, page: usize, has_room: bool) {
        let word = page / WORD_SLOTS;
        if word >= self.with_room.len() {
            self.with_room.resize(word + 1, 0);
        }
        if let Some(word) = self.with_room.get_mut(word) {
            let bit = 1 << (page % WORD_SLOTS);
            *word = if has_room { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Walks in steps of `budget`: what was seen, and the number of steps.
    fn walk(slots: &Slots<u32>, budget: usize) -> (Vec<(usize, u32)>, usize) {
        let (mut seen, mut steps, mut next) = (Vec::new(), 0, Some(0));
        while let Some(from) = next {
            next = slots.walk(from, budget, |slot, value| seen.push((slot, *value)));
            steps += 1;
        }
        (seen, steps)
    }

    #[test]
    fn after_a_peak_pages_are_freed_and_walks_are_short() {
        let mut slots = Slots::default();
        let numbers: Vec<usize> = (0..100_000).map(|value| slots.insert(value)).collect();
        assert_eq!(numbers, (0..100_000).collect::<Vec<_>>());
        assert!(walk(&slots, 256).1 >= 100_000 / 320);
        // One remains at the end, and one at the beginning.
        for slot in &numbers[1..99_999] {
            assert!(slots.remove(*slot).is_some());
        }
        assert_eq!(slots.pages.iter().flatten().count(), 2);
        let (seen, steps) = walk(&slots, 256);
        assert_eq!(seen, [(0, 0), (99_999, 99_999)]);
        assert!(steps <= 3, "{steps}");
        // What comes next goes to the front, and when the last page is empty the table is short.
        assert_eq!(slots.insert(7), 1);
        slots.remove(99_999);
        assert_eq!(slots.pages.len(), 1);
        slots.remove(0);
        slots.remove(1);
        assert_eq!((slots.pages.len(), slots.walk_cost()), (1, PAGE_WORDS));
    }

    #[test]
    fn no_step_of_a_walk_is_long() {
        let mut slots = Slots::default();
        for value in 0..10_000u32 {
            slots.insert(value);
        }
        let mut next = Some(0);
        while let Some(from) = next {
            let mut seen = 0;
            next = slots.walk(from, 100, |_, _| seen += 1);
            assert!(seen <= 100 + WORD_SLOTS, "{seen}");
        }
    }

    proptest! {
        #[test]
        fn slots_are_a_map_with_numbers_of_its_own(
            steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..2000),
            budget in 1..300usize,
        ) {
            let (mut slots, mut model) = (Slots::default(), BTreeMap::new());
            for (number, (insert, chosen)) in steps.into_iter().enumerate() {
                if insert || model.is_empty() {
                    let slot = slots.insert(number as u32);
                    prop_assert_eq!(model.insert(slot, number as u32), None);
                } else {
                    let slot = *model.keys().nth(chosen % model.len()).unwrap();
                    prop_assert_eq!(slots.remove(slot), model.remove(&slot));
                    prop_assert_eq!(slots.remove(slot), None);
                    prop_assert_eq!(slots.get(slot), None);
                }
            }
            prop_assert_eq!(slots.len(), model.len());
            let expected: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(walk(&slots, budget).0, expected);
        }
    }
}
