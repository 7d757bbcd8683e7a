//! The fleet: its members, and the store that they share.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::ApiError;
use crate::admin::view::View;
use crate::config::model::{FleetConfig, HostPattern, Net, StorePlace};
use crate::fleet::claim::NodeNameClaim;
use crate::fleet::key_status::KeyInUse;
use crate::fleet::membership::FleetState;
use crate::fleet::roster::{self, KnownMember};
use crate::handover::identity::shown;
use crate::store::etcd::health::StoreTrouble;
use crate::store::etcd::link::EtcdLink;

/// The fleet, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FleetInfo {
    /// The name of this node.
    pub node: String,
    /// What the nodes share: `members`, `certificates`, `keys`.
    pub share: Vec<String>,
    /// Whether this node has its name: `held`, `taken` by another node, or `unknown` as long as the store has not been
    /// reached.
    pub name: String,
    /// The store; null without one.
    pub store: Option<StoreInfo>,
    /// Commands on this node send tokens to members with these hosts in their URLs.
    pub trusted_names: Vec<String>,
    /// Commands on this node send tokens to members at addresses in these networks.
    pub trusted_networks: Vec<String>,
    /// The members, by name; as they were when the store was last read.
    pub members: Vec<MemberInfo>,
}

/// The store that nodes share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreInfo {
    /// `etcd` or `files`.
    pub kind: String,
    /// The URL of the member of etcd that is asked, or the folder.
    pub location: String,
    /// Why it cannot be read now; null if it can.
    pub read_error: Option<String>,
    /// Why it cannot be written now; null if it can.
    pub write_error: Option<String>,
    /// Since when it cannot be read or written.
    pub error_since: Option<String>,
    /// Seconds since what this node knows of it was last known to be complete; null if nothing was read yet.
    pub read_seconds_ago: Option<u64>,
    /// The keys under the prefix.
    pub keys: usize,
    /// The bytes of these keys and their values.
    pub bytes: usize,
}

/// A member of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemberInfo {
    /// Its name.
    pub node: String,
    /// Whether it is the node that responds.
    pub is_self: bool,
    /// The URL of its admin interface; null if others cannot reach that.
    pub admin: Option<String>,
    /// Version of tidegate.
    pub version: String,
    /// Number of its process in the sequence of upgrades.
    pub generation: u64,
    /// Its process id.
    pub pid: u32,
    /// When the process started.
    pub started: String,
    /// `serving` or `draining`.
    pub state: String,
    /// Its live tunnels; up to ten seconds old.
    pub tunnels: u64,
    /// The endpoints and listeners that operators have drained there, the first 64 of them.
    pub drains: Vec<String>,
    /// How many more there are.
    pub more_drains: usize,
    /// Seconds since the member last reported a change.
    pub age_seconds: u64,
}

/// The key for one purpose that a node uses now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedKeyInfo {
    /// Its purpose: `ticket-keys` or `sticky-keys`.
    pub keys: String,
    /// What distinguishes the key from others, and is the same on all nodes that use it; null while this node uses a
    /// key of its own.
    pub key: Option<String>,
    /// How long the key has been in use, as last read from the store.
    pub age_seconds: Option<u64>,
    /// Why the store cannot be read or written, so that this node may have missed a change; null if it can.
    pub error: Option<String>,
}

/// The keys in use that nodes share.
pub(super) fn keys(view: &View) -> Vec<SharedKeyInfo> {
    let info = |used: KeyInUse| {
        let (key, age) = used.shared.unzip();
        SharedKeyInfo {
            keys: used.kind.folder().to_owned(),
            key,
            age_seconds: age.map(|age| age.as_secs()),
            error: used.trouble.map(|trouble| trouble.to_string()),
        }
    };
    let keys = view.shared.fleet.keys_in_use();
    keys.into_iter().map(info).collect()
}

/// The fleet now.
///
/// # Errors
/// [`ApiError`]: this node is not one of a fleet.
pub(super) fn fleet(view: &View) -> Result<FleetInfo, ApiError> {
    let Some(state) = view.shared.fleet.state() else {
        return Err(ApiError::not_found(
            "this node is not one of a fleet: its configuration has no `[fleet]`",
        ));
    };
    let settings = &state.settings;
    let name = match &*state.claim.borrow() {
        NodeNameClaim::Pending => "unknown",
        NodeNameClaim::Held => "held",
        NodeNameClaim::Taken(_) => "taken",
    };
    Ok(FleetInfo {
        node: settings.node.to_string(),
        share: shared(settings),
        name: name.to_owned(),
        store: store(&state),
        trusted_names: settings
            .trusted
            .names
            .iter()
            .map(HostPattern::to_string)
            .collect(),
        trusted_networks: settings
            .trusted
            .networks
            .iter()
            .map(Net::to_string)
            .collect(),
        members: members(&state),
    })
}

/// What is wrong with the store or the fleet: a sentence for each.
pub(super) fn problems(view: &View) -> Vec<String> {
    let Some(state) = view.shared.fleet.state() else {
        return Vec::new();
    };
    let mut problems = Vec::new();
    if let Some(link) = &state.link {
        let condition = link.health().condition();
        let found = [("read", condition.reading), ("written", condition.writing)];
        for (what, trouble) in found {
            if let Some(StoreTrouble { error, since }) = trouble {
                let since = shown(since);
                problems.push(format!("the store cannot be {what} since {since}: {error}"));
            }
        }
    }
    if let NodeNameClaim::Taken(other) = &*state.claim.borrow() {
        problems.push(format!(
            "another node has the name `{}` of this one in the fleet; it started at {}",
            state.settings.node, other.started
        ));
    }
    problems
}

fn shared(settings: &FleetConfig) -> Vec<String> {
    let share = settings.share;
    let all = [
        ("members", share.members),
        ("certificates", share.certificates),
        ("keys", share.keys),
    ];
    let shared = all.into_iter().filter(|(_, is_shared)| *is_shared);
    shared.map(|(name, _)| name.to_owned()).collect()
}

fn store(state: &FleetState) -> Option<StoreInfo> {
    let store = state.store.as_ref()?;
    let kind = match &store.place {
        StorePlace::Files(folder) => {
            return Some(StoreInfo {
                kind: "files".to_owned(),
                location: folder.display().to_string(),
                read_error: None,
                write_error: None,
                error_since: None,
                read_seconds_ago: None,
                keys: 0,
                bytes: 0,
            });
        }
        StorePlace::Etcd(_) => "etcd".to_owned(),
    };
    let link: &EtcdLink = state.link.as_ref()?;
    let condition = link.health().condition();
    let (keys, bytes) = {
        let contents = link.mirror.contents();
        (contents.len(), contents.bytes())
    };
    let read = condition.up_to_date;
    let ago = read.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    let first = [&condition.reading, &condition.writing];
    let first = first
        .into_iter()
        .flatten()
        .map(|trouble| trouble.since)
        .min();
    let error = |trouble: Option<StoreTrouble>| trouble.map(|it| it.error.into());
    Some(StoreInfo {
        kind,
        location: link.client.member().to_string(),
        error_since: first.map(shown),
        read_error: error(condition.reading),
        write_error: error(condition.writing),
        read_seconds_ago: ago.map(|ago| ago.as_secs()),
        keys,
        bytes,
    })
}

fn members(state: &FleetState) -> Vec<MemberInfo> {
    let Some(link) = state.link.as_ref().filter(|_| state.settings.share.members) else {
        return Vec::new();
    };
    let holds_name = *state.claim.borrow() == NodeNameClaim::Held;
    let members = roster::members(&link.mirror, link.client.prefix());
    let info = |KnownMember { record, age }: KnownMember| MemberInfo {
        is_self: holds_name && *record.node == *state.settings.node,
        node: record.node,
        admin: record.admin,
        version: record.version,
        generation: record.generation,
        pid: record.pid,
        started: record.started,
        state: if record.load.draining {
            "draining"
        } else {
            "serving"
        }
        .to_owned(),
        tunnels: record.load.tunnels,
        drains: record.load.drains,
        more_drains: record.load.more_drains,
        age_seconds: age.as_secs(),
    };
    members.into_iter().map(info).collect()
}
