//! What one key has in use.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use super::key::LimitKey;
use super::replaced::TunnelPlace;
use crate::config::model::Rate;
use crate::quota::{RatedEvent, due_after};

/// What one key has in use. Most keys have no tunnels for most of the time.
#[derive(Debug, Default)]
pub(super) struct KeyUsage {
    /// When its next handshake and its next request are due, for [`due_after`].
    due: [u64; 2],
    tunnels: Option<Box<TunnelsOfKey>>,
}

/// What a key has in older generations.
#[derive(Debug, Default)]
pub(super) struct OlderUsage {
    pub(super) tunnels: u32,
    pub(super) label: Option<Box<str>>,
    /// For how many nanoseconds its next handshake and its next request have to wait.
    pub(super) waits: [u64; 2],
}

#[derive(Debug, Default)]
struct TunnelsOfKey {
    /// Shared, so that looking at many keys under the lock of a shard allocates nothing for each.
    label: Option<Arc<str>>,
    /// Tunnels that older generations have.
    older: u32,
    /// Handshakes of this process that may become tunnels.
    pending: u32,
    /// Those of them that give way to newer ones, the oldest in front; `None` if there are none.
    #[expect(
        clippy::box_collection,
        reason = "few keys have any at a time, and these are many keys"
    )]
    waiting: Option<Box<VecDeque<WaitingHandshake>>>,
    /// Those of `opened` that are open.
    open: u32,
    /// The tunnels of this process, the one that opened first in front. One that has ended leaves its place
    /// empty until half of all are: then ending 100,000 tunnels in any order moves each only once.
    opened: VecDeque<KeyTunnel>,
}

#[derive(Debug)]
struct WaitingHandshake {
    number: u64,
    /// Notified when it has to give way.
    gives_way: Arc<Notify>,
}

#[derive(Debug)]
struct KeyTunnel {
    number: u64,
    /// `None` once it has ended.
    place: Option<TunnelPlace>,
}

impl KeyUsage {
    /// Whether one more event is within `rate`. It counts only if it is.
    pub(super) fn happens(&mut self, event: RatedEvent, now: u64, rate: Rate) -> bool {
        let [handshake, request] = &mut self.due;
        let due = match event {
            RatedEvent::Handshake => handshake,
            RatedEvent::Request => request,
        };
        let next = due_after(*due, now, rate);
        *due = next.unwrap_or(*due);
        next.is_some()
    }

    /// When the next handshake and the next request are due.
    pub(super) fn due(&self) -> [u64; 2] {
        self.due
    }

    /// Tunnels, and handshakes that may become one, of this process.
    pub(super) fn own(&self) -> u32 {
        let own = |it: &TunnelsOfKey| it.pending.saturating_add(it.open);
        self.tunnels.as_deref().map_or(0, own)
    }

    /// Handshakes of this process that may become tunnels.
    pub(super) fn pending(&self) -> u32 {
        self.tunnels.as_ref().map_or(0, |it| it.pending)
    }

    /// Tunnels of older generations.
    pub(super) fn older(&self) -> u32 {
        self.tunnels.as_ref().map_or(0, |it| it.older)
    }

    /// All of them.
    pub(super) fn tunnels(&self) -> u32 {
        self.own().saturating_add(self.older())
    }

    /// How the key is shown, if it is.
    pub(super) fn label(&self) -> Option<Arc<str>> {
        self.tunnels.as_ref()?.label.clone()
    }

    /// Sets what older generations have; `now` is the time of the dues.
    pub(super) fn set_older(&mut self, older: OlderUsage, now: u64) {
        for (due, wait) in self.due.iter_mut().zip(older.waits) {
            *due = now.saturating_add(wait).max(*due);
        }
        if older.tunnels > 0 || self.tunnels.is_some() {
            let tunnels = self.tunnels.get_or_insert_default();
            tunnels.older = older.tunnels;
            tunnels.label = tunnels.label.take().or(older.label.map(Arc::from));
        }
        self.tidy();
    }

    /// Enters a handshake that may become a tunnel: of `key`, unless it counts for several keys.
    pub(super) fn enter(&mut self, key: Option<&LimitKey<'_>>) {
        let tunnels = self.tunnels_of(key);
        tunnels.pending += 1;
    }

    fn tunnels_of(&mut self, key: Option<&LimitKey<'_>>) -> &mut TunnelsOfKey {
        self.tunnels.get_or_insert_with(|| {
            Box::new(TunnelsOfKey {
                label: key.and_then(LimitKey::label).map(Arc::from),
                ..TunnelsOfKey::default()
            })
        })
    }

    /// Enters a handshake that gives way to newer ones of its key. Its number is higher than those of all others.
    pub(super) fn enter_waiting(
        &mut self,
        key: &LimitKey<'_>,
        number: u64,
        gives_way: &Arc<Notify>,
    ) {
        let tunnels = self.tunnels_of(Some(key));
        tunnels.pending += 1;
        let gives_way = Arc::clone(gives_way);
        let waiting = tunnels.waiting.get_or_insert_default();
        waiting.push_back(WaitingHandshake { number, gives_way });
    }

    /// Takes out the oldest handshake that gives way to newer ones. It no longer counts.
    pub(super) fn give_way(&mut self) -> Option<Arc<Notify>> {
        let tunnels = self.tunnels.as_mut()?;
        let oldest = tunnels.waiting.as_mut()?.pop_front()?;
        tunnels.pending = tunnels.pending.saturating_sub(1);
        tunnels.tidy_waiting();
        self.tidy();
        Some(oldest.gives_way)
    }

    /// A handshake has become the tunnel with this number, which is higher than those of all others. Returns
    /// the tunnels that are to be closed so that the key has no more than `most`: those of this process, and
    /// how many of older generations. It is itself one of them if the handshake has had to give way.
    pub(super) fn opened(
        &mut self,
        numbers: TunnelNumbers,
        place: TunnelPlace,
        most: Option<u32>,
    ) -> (Vec<TunnelPlace>, u32) {
        let number = numbers.tunnel;
        let Some(tunnels) = self
            .tunnels
            .as_mut()
            .filter(|it| it.counts_handshake(numbers.handshake))
        else {
            return (vec![place], 0);
        };
        tunnels.handshake_ended(numbers.handshake);
        if tunnels.opened.is_empty() {
            // Most keys have one.
            tunnels.opened.reserve_exact(1);
        }
        let place = Some(place);
        tunnels.opened.push_back(KeyTunnel { number, place });
        tunnels.open += 1;
        let Some(most) = most else {
            return Default::default();
        };
        let excess = tunnels.open.saturating_add(tunnels.older);
        let excess = excess.saturating_sub(most);
        // Their tunnels are older than any of this process.
        let older = excess.min(tunnels.older);
        tunnels.older -= older;
        // At least the new one stays.
        let others = (excess - older).min(tunnels.open - 1);
        (tunnels.close_oldest(others), older)
    }

    /// Takes out this many of the oldest open tunnels, which no longer count.
    pub(super) fn close_oldest(&mut self, count: u32) -> Vec<TunnelPlace> {
        let tunnels = self.tunnels.as_mut();
        let closed = tunnels.map(|tunnels| tunnels.close_oldest(count));
        self.tidy();
        closed.unwrap_or_default()
    }

    /// A tunnel has ended; a handshake, if its tunnel has no number.
    pub(super) fn leave(&mut self, numbers: TunnelNumbers) {
        if let Some(tunnels) = &mut self.tunnels {
            match numbers.tunnel {
                0 => tunnels.handshake_ended(numbers.handshake),
                number => tunnels.ended(number),
            }
        }
        self.tidy();
    }

    /// Whether anything of it still counts.
    pub(super) fn is_in_use(&self, now: u64) -> bool {
        self.tunnels.is_some() || self.due.iter().any(|due| *due > now)
    }

    fn tidy(&mut self) {
        let counts = |it: &TunnelsOfKey| it.older > 0 || it.pending > 0 || it.open > 0;
        if !self.tunnels.as_deref().is_some_and(counts) {
            self.tunnels = None;
        }
    }
}

/// The numbers of a tunnel and of its handshake: none is used twice for a limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TunnelNumbers {
    /// 0 if the handshake gives way to no other.
    pub(super) handshake: u64,
    /// 0 until it has opened.
    pub(super) tunnel: u64,
}

impl TunnelsOfKey {
    /// Where the handshake with this number is among those that give way.
    fn waiting_at(&self, handshake: u64) -> Option<usize> {
        let waiting = self.waiting.as_ref()?;
        let found = waiting.binary_search_by_key(&handshake, |it| it.number);
        found.ok()
    }

    /// Whether this handshake still counts: one that had to give way does not.
    fn counts_handshake(&self, handshake: u64) -> bool {
        handshake == 0 || self.waiting_at(handshake).is_some()
    }

    fn handshake_ended(&mut self, handshake: u64) {
        if !self.counts_handshake(handshake) {
            return;
        }
        if let (Some(at), Some(waiting)) = (self.waiting_at(handshake), &mut self.waiting) {
            waiting.remove(at);
            self.tidy_waiting();
        }
        self.pending = self.pending.saturating_sub(1);
    }

    fn tidy_waiting(&mut self) {
        if self.waiting.as_ref().is_some_and(|it| it.is_empty()) {
            self.waiting = None;
        }
    }

    fn close_oldest(&mut self, count: u32) -> Vec<TunnelPlace> {
        let mut closed = Vec::new();
        while (closed.len() as u32) < count
            && let Some(tunnel) = self.opened.pop_front()
        {
            closed.extend(tunnel.place);
        }
        self.open -= closed.len() as u32;
        closed
    }

    /// One that was closed for a newer one is not there any more.
    fn ended(&mut self, number: u64) {
        let found = self.opened.binary_search_by_key(&number, |it| it.number);
        let tunnel = found.ok().and_then(|at| self.opened.get_mut(at));
        if tunnel.and_then(|tunnel| tunnel.place.take()).is_none() {
            return;
        }
        self.open -= 1;
        if self.opened.len() > 2 * self.open as usize {
            self.opened.retain(|it| it.place.is_some());
            self.opened.shrink_to(2 * self.open as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u64) -> TunnelPlace {
        TunnelPlace {
            replaced: Arc::default(),
            place: 0,
            session: number,
        }
    }

    fn tunnel(number: u64) -> TunnelNumbers {
        TunnelNumbers {
            handshake: 0,
            tunnel: number,
        }
    }

    fn with_tunnels(count: u64) -> KeyUsage {
        let mut usage = KeyUsage::default();
        for number in 1..=count {
            usage.enter(None);
            usage.opened(tunnel(number), place(number), None);
        }
        usage
    }

    #[test]
    fn tunnels_that_end_in_any_order_are_seldom_moved_and_take_no_memory() {
        const COUNT: u64 = 100_000;
        let mut usage = with_tunnels(COUNT);
        let mut moved = 0;
        // 7 and the count have no common divisor: each ends once.
        for step in 0..COUNT {
            let before = usage.tunnels.as_ref().unwrap().opened.len();
            usage.leave(tunnel(step * 7 % COUNT + 1));
            let Some(tunnels) = &usage.tunnels else { break };
            if tunnels.opened.len() < before {
                moved += tunnels.opened.len() as u64;
            }
            assert!(tunnels.opened.len() <= 2 * tunnels.open as usize);
            assert_eq!(u64::from(tunnels.open), COUNT - step - 1);
        }
        assert!(moved <= COUNT, "{moved}");
        assert!(usage.tunnels.is_none());
    }

    #[test]
    fn the_oldest_are_those_that_opened_first_and_have_not_ended() {
        let mut usage = with_tunnels(5);
        // It is still a handshake, and nothing to close.
        usage.enter(None);
        usage.leave(tunnel(2));
        let sessions = |closed: Vec<TunnelPlace>| {
            let sessions = closed.into_iter().map(|it| it.session);
            sessions.collect::<Vec<_>>()
        };
        assert_eq!(sessions(usage.close_oldest(2)), [1, 3]);
        // They have left already.
        usage.leave(tunnel(1));
        usage.leave(tunnel(2));
        assert_eq!((usage.own(), usage.pending()), (3, 1));
        assert_eq!(sessions(usage.close_oldest(9)), [4, 5]);
        usage.leave(TunnelNumbers::default());
        assert!(usage.tunnels.is_none());
    }
}
