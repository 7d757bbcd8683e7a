//! What one key has in use.

use std::collections::VecDeque;

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
    label: Option<Box<str>>,
    /// Tunnels that older generations have.
    older: u32,
    /// Those of `own` that are open.
    open: u32,
    /// The tunnels and handshakes of this process, the oldest first.
    own: VecDeque<KeyTunnel>,
}

#[derive(Debug)]
struct KeyTunnel {
    number: u64,
    /// `None` while it is a handshake.
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
        self.tunnels.as_ref().map_or(0, |it| it.own.len() as u32)
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
    pub(super) fn label(&self) -> Option<&str> {
        self.tunnels.as_ref()?.label.as_deref()
    }

    /// Sets what older generations have; `now` is the time of the dues.
    pub(super) fn set_older(&mut self, older: OlderUsage, now: u64) {
        for (due, wait) in self.due.iter_mut().zip(older.waits) {
            *due = now.saturating_add(wait).max(*due);
        }
        if older.tunnels > 0 || self.tunnels.is_some() {
            let tunnels = self.tunnels.get_or_insert_default();
            tunnels.older = older.tunnels;
            tunnels.label = tunnels.label.take().or(older.label);
        }
        self.tidy();
    }

    /// Enters a handshake that may become a tunnel: of `key`, unless it counts for several keys.
    pub(super) fn enter(&mut self, number: u64, key: Option<&LimitKey<'_>>) {
        let tunnels = self.tunnels.get_or_insert_with(|| {
            Box::new(TunnelsOfKey {
                label: key.and_then(LimitKey::label),
                // Most keys have one.
                own: VecDeque::with_capacity(1),
                ..TunnelsOfKey::default()
            })
        });
        let place = None;
        tunnels.own.push_back(KeyTunnel { number, place });
    }

    /// The tunnel with this number has opened. Returns the tunnels that are to be closed so that the key has
    /// no more than `most`: those of this process, and how many of older generations.
    pub(super) fn opened(
        &mut self,
        number: u64,
        place: TunnelPlace,
        most: Option<u32>,
    ) -> (Vec<TunnelPlace>, u32) {
        let Some(tunnels) = &mut self.tunnels else {
            return Default::default();
        };
        let found = tunnels.own.binary_search_by_key(&number, |it| it.number);
        let own = found.ok().and_then(|at| tunnels.own.get_mut(at));
        let Some(own) = own.filter(|own| own.place.is_none()) else {
            return Default::default();
        };
        own.place = Some(place);
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
        (tunnels.close_oldest(others, Some(number)), older)
    }

    /// Takes out this many of the oldest open tunnels, which no longer count.
    pub(super) fn close_oldest(&mut self, count: u32) -> Vec<TunnelPlace> {
        let tunnels = self.tunnels.as_mut();
        let closed = tunnels.map(|tunnels| tunnels.close_oldest(count, None));
        self.tidy();
        closed.unwrap_or_default()
    }

    /// The tunnel or handshake with this number has ended.
    pub(super) fn leave(&mut self, number: u64) {
        if let Some(tunnels) = &mut self.tunnels
            && let Ok(at) = tunnels.own.binary_search_by_key(&number, |it| it.number)
            && let Some(left) = tunnels.own.remove(at)
        {
            tunnels.open -= u32::from(left.place.is_some());
        }
        self.tidy();
    }

    /// Whether anything of it still counts.
    pub(super) fn is_in_use(&self, now: u64) -> bool {
        self.tunnels.is_some() || self.due.iter().any(|due| *due > now)
    }

    fn tidy(&mut self) {
        let counts = |it: &TunnelsOfKey| it.older > 0 || !it.own.is_empty();
        if !self.tunnels.as_deref().is_some_and(counts) {
            self.tunnels = None;
        }
    }
}

impl TunnelsOfKey {
    fn close_oldest(&mut self, count: u32, except: Option<u64>) -> Vec<TunnelPlace> {
        let mut closed = Vec::new();
        let mut at = 0;
        while (closed.len() as u32) < count
            && let Some(tunnel) = self.own.get(at)
        {
            // A handshake is not a tunnel yet, and the newest one is to stay.
            if tunnel.place.is_none() || Some(tunnel.number) == except {
                at += 1;
                continue;
            }
            let taken = self.own.remove(at);
            closed.extend(taken.and_then(|it| it.place));
        }
        self.open -= closed.len() as u32;
        closed
    }
}
