//! All shared limits of the process: found by name, and what a successor learns about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::key::{KeyHasher, KeyId};
use super::usage::OlderUsage;
use super::{KeyLook, SharedLimit, locked};
use crate::config::model::{Secret, SharedLimitConfig};

/// Keys that are handed over or reported at most: those with tunnels come first.
const MAX_REPORTED: usize = 1 << 20;

/// All shared limits of the process. A limit goes on as long as it is configured or has tunnels.
#[derive(Debug, Default)]
pub struct SharedLimits {
    hasher: KeyHasher,
    /// By name and key: a limit with another key counts something else.
    known: Mutex<HashMap<(String, String), Weak<SharedLimit>>>,
    /// What a predecessor has handed over, and no limit has claimed yet.
    unclaimed: Mutex<Vec<LimitCounts>>,
}

/// What a process hands to its successor about shared limits.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsHandover {
    /// The secret that keys are hashed with.
    pub secret: Option<Secret>,
    /// The limits.
    pub limits: Vec<LimitCounts>,
}

/// What the keys of a limit have in use.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LimitCounts {
    /// The name of the limit.
    pub limit: String,
    /// Its key, in words.
    pub key: String,
    /// The keys that have something.
    pub keys: Vec<KeyCount>,
}

/// What a key has in use.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KeyCount {
    /// The hash of the key, in hexadecimal digits.
    pub id: String,
    /// Its tunnels.
    pub tunnels: u32,
    /// How it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Box<str>>,
    /// For how many nanoseconds its next handshake and its next request have to wait.
    #[serde(skip_serializing_if = "is_zero")]
    pub waits: [u64; 2],
}

/// Tunnels of older generations that are to be closed for newer ones.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OlderToReplace {
    /// The name of the limit.
    pub limit: String,
    /// Its key, in words.
    pub key: String,
    /// The hash of the key, in hexadecimal digits.
    pub id: String,
    /// How many of its tunnels are to be closed.
    pub tunnels: u32,
}

/// How many tunnels were closed.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
pub struct ReplaceResponse {
    /// The tunnels that are closing.
    pub closed: u32,
}

fn is_zero(waits: &[u64; 2]) -> bool {
    *waits == [0; 2]
}

impl KeyCount {
    fn of(look: &KeyLook, tunnels: u32, waits: [u64; 2]) -> Self {
        Self {
            id: look.id.to_hex(),
            tunnels,
            label: look.label.as_deref().map(Into::into),
            waits,
        }
    }
}

impl SharedLimits {
    /// Goes on from what a predecessor has handed over.
    pub fn new(handover: LimitsHandover) -> Self {
        Self {
            hasher: handover.secret.map(KeyHasher::new).unwrap_or_default(),
            known: Mutex::default(),
            unclaimed: Mutex::new(handover.limits),
        }
    }

    /// Hashes keys.
    pub fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    /// The limit with this name and this key, with its counts if there is one.
    pub fn running(&self, config: &SharedLimitConfig) -> Arc<SharedLimit> {
        let names = (config.name.to_string(), config.key.to_string());
        let mut known = locked(&self.known);
        known.retain(|_, limit| limit.strong_count() > 0);
        if let Some(limit) = known.get(&names).and_then(Weak::upgrade) {
            return limit;
        }
        let limit = Arc::<SharedLimit>::default();
        let mut unclaimed = locked(&self.unclaimed);
        let is_same = |it: &LimitCounts| (&it.limit, &it.key) == (&names.0, &names.1);
        if let Some(at) = unclaimed.iter().position(is_same) {
            limit.set_older(usages([unclaimed.swap_remove(at)]));
        }
        known.insert(names, Arc::downgrade(&limit));
        limit
    }

    /// What a successor needs: tunnels, those of older generations included, and rates that are used up.
    pub fn hand_over(&self) -> LimitsHandover {
        LimitsHandover {
            secret: Some(self.hasher.secret().clone()),
            limits: self.counts(|limit, keys| {
                limit.each(|look| {
                    let (tunnels, waits) = (look.tunnels(), look.waits);
                    if tunnels > 0 || !is_zero(&waits) {
                        keys.push(KeyCount::of(&look, tunnels, waits));
                    }
                });
                keys.sort_by_key(|key| key.tunnels == 0);
            }),
        }
    }

    /// The tunnels of this process, for the newest generation.
    pub fn own_tunnels(&self) -> Vec<LimitCounts> {
        self.counts(|limit, keys| {
            limit.each(|look| {
                if look.own > 0 {
                    keys.push(KeyCount::of(&look, look.own, [0; 2]));
                }
            });
        })
    }

    /// Sets what older generations have: the reports of each of them. What is in none counts no more.
    pub fn set_older(&self, mut reports: Vec<LimitCounts>) {
        locked(&self.unclaimed).clear();
        for ((name, key), limit) in self.all() {
            let is_same = |it: &mut LimitCounts| (&it.limit, &it.key) == (&name, &key);
            let own = reports.extract_if(.., is_same);
            limit.set_older(usages(own));
        }
    }

    /// Takes the tunnels of older generations that have to make room for newer ones.
    pub fn take_older_to_replace(&self) -> Vec<OlderToReplace> {
        let mut taken = Vec::new();
        for ((name, key), limit) in self.all() {
            for (id, tunnels) in locked(&limit.older_to_replace).drain() {
                taken.push(OlderToReplace {
                    limit: name.clone(),
                    key: key.clone(),
                    id: id.to_hex(),
                    tunnels,
                });
            }
        }
        taken
    }

    /// Closes tunnels of this process, because a newer generation has newer ones of the same key. Returns how
    /// many; `None` if there is no such limit.
    pub fn replace(&self, order: &OlderToReplace) -> Option<u32> {
        let known = locked(&self.known);
        let names = (order.limit.clone(), order.key.clone());
        let limit = known.get(&names).and_then(Weak::upgrade);
        let id = KeyId::from_hex(&order.id);
        let (limit, id) = limit.zip(id)?;
        Some(limit.replace(id, order.tunnels))
    }

    /// Removes the keys of which nothing counts any more.
    pub fn sweep(&self) {
        self.all().iter().for_each(|(_, limit)| limit.sweep());
    }

    fn all(&self) -> Vec<((String, String), Arc<SharedLimit>)> {
        let known = locked(&self.known);
        let all = known.iter();
        all.filter_map(|(names, limit)| Some((names.clone(), limit.upgrade()?)))
            .collect()
    }

    fn counts(&self, collect: impl Fn(&SharedLimit, &mut Vec<KeyCount>)) -> Vec<LimitCounts> {
        let mut left = MAX_REPORTED;
        let all = self.all().into_iter();
        all.map(|((limit, key), running)| {
            let mut keys = Vec::new();
            collect(&running, &mut keys);
            keys.truncate(left);
            left -= keys.len();
            LimitCounts { limit, key, keys }
        })
        .collect()
    }
}

/// The usage of each key in these reports: tunnels are added up.
fn usages(reports: impl IntoIterator<Item = LimitCounts>) -> HashMap<KeyId, OlderUsage> {
    let mut usages = HashMap::<KeyId, OlderUsage>::new();
    for key in reports.into_iter().flat_map(|report| report.keys) {
        // A process of another version may write hashes in another way: it counts for itself.
        if let Some(id) = KeyId::from_hex(&key.id) {
            let usage = usages.entry(id).or_default();
            usage.tunnels = usage.tunnels.saturating_add(key.tunnels);
            usage.label = usage.label.take().or(key.label);
            usage.waits = key.waits;
        }
    }
    usages
}
