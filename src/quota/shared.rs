//! Limits that routes share: the tunnels of a key, and its rates of handshakes and plain requests.
//!
//! All workers count in one table, whose shards have a lock each that is held for one look at one key. A
//! table has a maximum number of keys. Further keys share one count, so that a flood of new keys neither
//! takes memory nor gets past the limit. A key is removed once nothing of it counts any more.

mod key;
mod limits;
mod permit;
mod replaced;
mod usage;

pub use self::key::{KeyId, KeySource, LimitKey};
pub use self::limits::{
    KeyCount, LimitCounts, LimitsHandover, OlderToReplace, ReplaceResponse, SharedLimits,
};
pub use self::permit::KeyPermit;
pub use self::replaced::{ReplacedTunnels, TunnelPlace};

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::usage::{KeyUsage, OlderUsage};
use super::{RatedEvent, nanos};
use crate::config::model::{Rate, SharedLimitConfig, WhenFull};

/// Shards of a table, each with its lock, so that workers seldom wait for one another.
const SHARDS: usize = 256;

/// How often a shard is searched for keys to remove because the table is full. Without this interval, a
/// flood of new keys would make every request search a shard.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// A key has all that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// It has all its tunnels.
    Tunnels,
    /// It exceeds a rate.
    Rate,
}

/// What a limit has done since the process started.
#[derive(Debug, Default)]
pub struct LimitCounters {
    /// Handshakes that were refused because the key had all its tunnels.
    pub full: AtomicU64,
    /// Handshakes beyond the rate.
    pub handshakes: AtomicU64,
    /// Plain requests beyond the rate.
    pub requests: AtomicU64,
    /// Requests that were refused because they had no key.
    pub missing: AtomicU64,
    /// Tunnels that were closed for a newer one.
    pub replaced: AtomicU64,
    /// Handshakes and requests that counted for the shared count.
    pub overflowed: AtomicU64,
}

/// A limit as running. It continues across reloads.
#[derive(Debug)]
pub struct SharedLimit {
    began: Instant,
    /// Keys in the table, without the shared count.
    keys: AtomicUsize,
    shards: [Mutex<KeyShard>; SHARDS],
    /// The last number of a tunnel or handshake: none is used twice.
    last: AtomicU64,
    /// Tunnels of older generations that are to make room.
    older_to_replace: Mutex<HashMap<KeyId, u32>>,
    /// What it has done.
    pub counters: LimitCounters,
}

#[derive(Debug, Default)]
struct KeyShard {
    keys: HashMap<KeyId, KeyUsage>,
    last_search: Option<Instant>,
}

/// A key that has tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTunnels {
    /// The key; the beginning of its hash, if it may be a credential.
    pub key: String,
    /// Tunnels of this process.
    pub own: u32,
    /// Tunnels of older generations.
    pub older: u32,
}

/// A key as it was a moment ago.
#[derive(Debug)]
struct KeyLook {
    id: KeyId,
    label: Option<Arc<str>>,
    /// Tunnels of this process.
    own: u32,
    /// Tunnels of older generations.
    older: u32,
    /// For how many nanoseconds its next handshake and its next request have to wait.
    waits: [u64; 2],
}

impl KeyLook {
    /// All tunnels.
    fn tunnels(&self) -> u32 {
        self.own.saturating_add(self.older)
    }
}

impl KeyTunnels {
    /// All of them.
    pub fn tunnels(&self) -> u32 {
        self.own.saturating_add(self.older)
    }
}

impl Default for SharedLimit {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            keys: AtomicUsize::default(),
            shards: std::array::from_fn(|_| Mutex::default()),
            last: AtomicU64::default(),
            older_to_replace: Mutex::default(),
            counters: LimitCounters::default(),
        }
    }
}

impl SharedLimit {
    /// Counts a plain request of this key.
    ///
    /// # Errors
    /// [`LimitExceeded::Rate`].
    pub fn request(
        &self,
        key: &LimitKey<'_>,
        config: &SharedLimitConfig,
    ) -> Result<(), LimitExceeded> {
        let Some(rate) = config.requests else {
            return Ok(());
        };
        let now = nanos(self.began);
        let (_, is_within) = self.with(key.id, config.keys, |usage, _| {
            usage.happens(RatedEvent::Request, now, rate)
        });
        if is_within {
            return Ok(());
        }
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        Err(LimitExceeded::Rate)
    }

    /// Counts a handshake of this key, and the tunnel that it may become: that one only if the limit has
    /// `tunnels`. With `close_oldest` the oldest handshakes of the key give way if it has too many, and so does this
    /// one when `gives_way` is notified.
    ///
    /// # Errors
    /// [`LimitExceeded`].
    pub fn handshake(
        self: &Arc<Self>,
        key: &LimitKey<'_>,
        config: &SharedLimitConfig,
        gives_way: &Arc<Notify>,
    ) -> Result<Option<KeyPermit>, LimitExceeded> {
        let now = nanos(self.began);
        let most = config.tunnels.map(u32::from);
        // The tunnels of the shared count are those of strangers.
        let closes = |id| config.when_full == WhenFull::CloseOldest && id == key.id;
        // The rate first: attempts of a key that is full count, too.
        let is_within = |usage: &mut KeyUsage, rate: Option<Rate>| {
            rate.is_none_or(|rate| usage.happens(RatedEvent::Handshake, now, rate))
        };
        let (id, entered) = self.with(key.id, config.keys, |usage, id| {
            if !is_within(usage, config.handshakes) {
                return Err(LimitExceeded::Rate);
            }
            let Some(most) = most else {
                return Ok(0);
            };
            if !closes(id) {
                if usage.tunnels() >= most {
                    return Err(LimitExceeded::Tunnels);
                }
                usage.enter((id == key.id).then_some(key));
                return Ok(0);
            }
            // A handshake closes no tunnel before its own opens: their number is limited, too. One whose endpoint
            // does not answer must not keep out the next.
            while usage.pending() >= most {
                let oldest = usage.give_way().ok_or(LimitExceeded::Tunnels)?;
                oldest.notify_one();
                self.counters.full.fetch_add(1, Ordering::Relaxed);
            }
            let number = self.next_number();
            usage.enter_waiting(key, number, gives_way);
            Ok(number)
        });
        let handshake = entered.inspect_err(|exceeded| {
            let counter = match exceeded {
                LimitExceeded::Tunnels => &self.counters.full,
                LimitExceeded::Rate => &self.counters.handshakes,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        })?;
        Ok(most.map(|most| KeyPermit {
            limit: Arc::clone(self),
            id,
            handshake,
            number: AtomicU64::default(),
            closes_beyond: closes(id).then_some(most),
        }))
    }

    /// Higher than all before: it is asked for under the lock of the key that it is for.
    fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of keys in the table.
    pub fn len(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes the keys of which nothing counts any more.
    pub fn sweep(&self) {
        let now = nanos(self.began);
        for shard in &self.shards {
            self.forget(&mut locked(shard), now);
        }
    }

    /// The keys with the most tunnels, at most `count` of them, and all tunnels.
    pub fn top(&self, count: usize) -> (Vec<KeyTunnels>, u64) {
        let mut top: Vec<KeyTunnels> = Vec::new();
        let mut total = 0;
        self.each(|look| {
            let tunnels = look.tunnels();
            total += u64::from(tunnels);
            let least = top.last().filter(|_| top.len() >= count);
            if tunnels == 0 || least.is_some_and(|least| least.tunnels() >= tunnels) {
                return;
            }
            let at = top.partition_point(|it| it.tunnels() >= tunnels);
            top.insert(
                at,
                KeyTunnels {
                    key: match &look.label {
                        Some(label) => label.to_string(),
                        None => look.id.to_string(),
                    },
                    own: look.own,
                    older: look.older,
                },
            );
            top.truncate(count);
        });
        (top, total)
    }

    /// Shows each key. No lock is held meanwhile: workers may be waiting for it.
    fn each(&self, mut visit: impl FnMut(KeyLook)) {
        let now = nanos(self.began);
        let look = |(id, usage): (&KeyId, &KeyUsage)| KeyLook {
            id: *id,
            label: usage.label(),
            own: usage.own(),
            older: usage.older(),
            waits: usage.due().map(|due| due.saturating_sub(now)),
        };
        let mut looks = Vec::new();
        for shard in &self.shards {
            looks.extend(locked(shard).keys.iter().map(look));
            looks.drain(..).for_each(&mut visit);
        }
    }

    /// Sets what each key has in older generations; a key that is not among these has nothing.
    fn set_older(&self, counts: impl IntoIterator<Item = (KeyId, OlderUsage)>) {
        let mut by_shard: [HashMap<KeyId, OlderUsage>; SHARDS] =
            std::array::from_fn(|_| HashMap::new());
        // Those that are to be closed no longer count, although the older process has not closed them yet.
        let replaced = locked(&self.older_to_replace).clone();
        for (id, mut usage) in counts {
            let replaced = replaced.get(&id).copied().unwrap_or_default();
            usage.tunnels = usage.tunnels.saturating_sub(replaced);
            if let Some(shard) = by_shard.get_mut(id.shard(SHARDS)) {
                shard.insert(id, usage);
            }
        }
        let now = nanos(self.began);
        for (shard, mut counts) in self.shards.iter().zip(by_shard) {
            let mut shard = locked(shard);
            for (id, usage) in &mut shard.keys {
                let older = counts.remove(id).unwrap_or_default();
                usage.set_older(older, now);
            }
            let is_new = |id: &KeyId| usize::from(*id != KeyId::REST);
            // There may be more than the maximum: as many as the older process had.
            let new: usize = counts.keys().map(is_new).sum();
            self.keys.fetch_add(new, Ordering::Relaxed);
            for (id, older) in counts {
                shard.keys.entry(id).or_default().set_older(older, now);
            }
        }
    }

    /// Closes this many of the oldest tunnels of a key; returns how many it had. The tunnels of the shared
    /// count are those of strangers, and stay open.
    fn replace(&self, id: KeyId, count: u32) -> u32 {
        if id == KeyId::REST {
            return 0;
        }
        let replaced = {
            let mut shard = locked(self.shard(id));
            let usage = shard.keys.get_mut(&id);
            usage.map(|usage| usage.close_oldest(count))
        };
        let replaced = replaced.unwrap_or_default();
        let count = replaced.len() as u32;
        self.end(replaced);
        count
    }

    fn end(&self, replaced: Vec<TunnelPlace>) {
        let count = replaced.len() as u64;
        self.counters.replaced.fetch_add(count, Ordering::Relaxed);
        for place in replaced {
            place.end();
        }
    }

    fn shard(&self, id: KeyId) -> &Mutex<KeyShard> {
        let [first, rest @ ..] = &self.shards;
        rest.get(id.shard(SHARDS).wrapping_sub(1)).unwrap_or(first)
    }

    /// Calls `with` with the usage of this key, or with the shared one if the key is new and the table is
    /// full. Returns whose usage it was.
    fn with<T>(
        &self,
        id: KeyId,
        most: usize,
        with: impl FnOnce(&mut KeyUsage, KeyId) -> T,
    ) -> (KeyId, T) {
        let mut shard = locked(self.shard(id));
        if let Some(known) = shard.keys.get_mut(&id) {
            return (id, with(known, id));
        }
        if self.has_room(&mut shard, most) {
            return (id, with(shard.keys.entry(id).or_default(), id));
        }
        // The lock of one shard is not held while waiting for another one.
        drop(shard);
        self.counters.overflowed.fetch_add(1, Ordering::Relaxed);
        let mut shard = locked(self.shard(KeyId::REST));
        let usage = shard.keys.entry(KeyId::REST).or_default();
        (KeyId::REST, with(usage, KeyId::REST))
    }

    /// Counts one more key, if the table has room for it.
    fn has_room(&self, shard: &mut KeyShard, most: usize) -> bool {
        let one_more = |keys| (keys < most).then_some(keys + 1);
        let count = || {
            let counted = self
                .keys
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            counted.is_ok()
        };
        if count() {
            return true;
        }
        let searched = shard.last_search;
        if searched.is_some_and(|at| at.elapsed() < SEARCH_INTERVAL) {
            return false;
        }
        shard.last_search = Some(Instant::now());
        self.forget(shard, nanos(self.began));
        count()
    }

    fn forget(&self, shard: &mut KeyShard, now: u64) {
        let mut gone = 0;
        shard.keys.retain(|id, usage| {
            let stays = usage.is_in_use(now);
            gone += usize::from(!stays && *id != KeyId::REST);
            stays
        });
        self.keys.fetch_sub(gone, Ordering::Relaxed);
        // A flood must not keep its memory for ever, and a shard that grows again must not allocate at once.
        let room = shard.keys.len() * 2;
        shard.keys.shrink_to(room);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
