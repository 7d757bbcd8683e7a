//! The members of the fleet, as this node knows them.

use std::time::Duration;

use super::record::MemberRecord;
use crate::store::etcd::mirror::Mirror;

/// What the keys of members begin with, after the prefix of the store.
const MEMBERS: &str = "members/";

/// The most members that are listed.
const MAX_MEMBERS: usize = 1000;

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMember {
    /// What it says about itself.
    pub record: MemberRecord,
    /// For how long this node has known that.
    pub age: Duration,
}

/// The key of a member.
pub fn member_key(prefix: &str, node: &str) -> String {
    format!("{prefix}{MEMBERS}{node}")
}

/// All members, by name. What is not a record of one is skipped.
pub fn members(mirror: &Mirror, prefix: &str) -> Vec<KnownMember> {
    let under = format!("{prefix}{MEMBERS}");
    let contents = mirror.contents();
    let items = contents.under(&under).take(MAX_MEMBERS);
    let known = items.filter_map(|(key, item)| {
        let node = key.strip_prefix(&*under)?;
        Some(KnownMember {
            record: MemberRecord::parse(node, &item.value)?,
            age: item.seen.elapsed(),
        })
    });
    known.collect()
}
