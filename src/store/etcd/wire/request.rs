//! Requests to etcd's JSON gateway.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Some keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRange<'a> {
    /// This one.
    One(&'a str),
    /// All that begin with this.
    Prefix(&'a str),
}

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// There is no item with this key.
    Absent(&'a str),
    /// The item with this key was last changed at this revision.
    Unchanged(&'a str, i64),
}

/// A change that a transaction makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStep<'a> {
    /// Writes an item, which ends with this lease; 0 for none.
    Put {
        /// Its key.
        key: &'a str,
        /// Its value.
        value: &'a [u8],
        /// Its lease.
        lease: i64,
    },
    /// Removes an item.
    Delete(&'a str),
}

/// A compare-and-swap: all steps are applied if all conditions hold, otherwise the items of the conditions are
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction<'a> {
    /// What must hold.
    pub conditions: &'a [Condition<'a>],
    /// What is done then.
    pub steps: &'a [WriteStep<'a>],
}

impl KeyRange<'_> {
    fn fields(self) -> Value {
        match self {
            Self::One(key) => json!({ "key": base64(key) }),
            Self::Prefix(prefix) => json!({
                "key": base64(prefix),
                "range_end": STANDARD.encode(after_prefix(prefix)),
            }),
        }
    }
}

impl Condition<'_> {
    fn key(&self) -> &str {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }

    fn written(&self) -> Value {
        match self {
            Self::Absent(key) => json!({
                "target": "CREATE", "result": "EQUAL", "key": base64(key), "create_revision": "0",
            }),
            Self::Unchanged(key, revision) => json!({
                "target": "MOD", "result": "EQUAL", "key": base64(key),
                "mod_revision": revision.to_string(),
            }),
        }
    }
}

impl WriteStep<'_> {
    fn written(&self) -> Value {
        match self {
            Self::Put { key, value, lease } => json!({ "request_put": {
                "key": base64(key), "value": STANDARD.encode(value), "lease": lease.to_string(),
            } }),
            Self::Delete(key) => json!({ "request_delete_range": { "key": base64(key) } }),
        }
    }
}

/// Items of a range, at this revision (0 for the latest), at most `limit` (0 for all).
pub(in crate::store::etcd) fn range(keys: KeyRange<'_>, revision: i64, limit: i64) -> Vec<u8> {
    let mut request = keys.fields();
    request["revision"] = revision.to_string().into();
    request["limit"] = limit.to_string().into();
    request.to_string().into()
}

/// The same from this key on.
pub(in crate::store::etcd) fn rest_of_range(
    prefix: &str,
    after: &[u8],
    revision: i64,
    limit: i64,
) -> Vec<u8> {
    let mut request = KeyRange::Prefix(prefix).fields();
    // The first key after another one is that one with a zero byte.
    request["key"] = STANDARD.encode([after, &[0]].concat()).into();
    request["revision"] = revision.to_string().into();
    request["limit"] = limit.to_string().into();
    request.to_string().into()
}

/// The item that was changed last, without its value.
pub(in crate::store::etcd) fn latest(prefix: &str) -> Vec<u8> {
    let mut request = KeyRange::Prefix(prefix).fields();
    request["limit"] = "1".into();
    request["sort_target"] = "MOD".into();
    request["sort_order"] = "DESCEND".into();
    request["keys_only"] = true.into();
    request.to_string().into()
}

pub(in crate::store::etcd) fn transaction(wanted: &Transaction<'_>) -> Vec<u8> {
    let conditions = wanted.conditions.iter().map(Condition::written);
    let steps = wanted.steps.iter().map(WriteStep::written);
    let reads = wanted
        .conditions
        .iter()
        .map(|condition| json!({ "request_range": { "key": base64(condition.key()) } }));
    let request = json!({
        "compare": conditions.collect::<Vec<_>>(),
        "success": steps.collect::<Vec<_>>(),
        "failure": reads.collect::<Vec<_>>(),
    });
    request.to_string().into()
}

/// A lease of this many seconds.
pub(in crate::store::etcd) fn grant(ttl: i64) -> Vec<u8> {
    json!({ "TTL": ttl.to_string() }).to_string().into()
}

/// A renewal.
pub(in crate::store::etcd) fn keep_alive(lease: i64) -> Vec<u8> {
    json!({ "ID": lease.to_string() }).to_string().into()
}

/// The end of a lease, and of all items with it.
pub(in crate::store::etcd) fn revoke(lease: i64) -> Vec<u8> {
    json!({ "ID": lease.to_string() }).to_string().into()
}

/// How long a lease will last.
pub(in crate::store::etcd) fn time_to_live(lease: i64) -> Vec<u8> {
    json!({ "ID": lease.to_string() }).to_string().into()
}

/// All changes of these keys from this revision on.
pub(in crate::store::etcd) fn watch(keys: KeyRange<'_>, from: i64) -> Vec<u8> {
    let mut request = keys.fields();
    request["start_revision"] = from.to_string().into();
    request["progress_notify"] = true.into();
    json!({ "create_request": request }).to_string().into()
}

pub(in crate::store::etcd) fn authenticate(user: &str, password: &str) -> Vec<u8> {
    json!({ "name": user, "password": password })
        .to_string()
        .into()
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// The first key after all those that begin with `prefix`. UTF-8 has no byte 0xff.
fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last = last.saturating_add(1),
        // Everything.
        None => end.push(0),
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_key() {
        assert_eq!(after_prefix("/tidegate/"), b"/tidegate0");
        assert_eq!(after_prefix(""), [0]);
    }

    #[test]
    fn requests_are_protocol_buffers_in_json() {
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).unwrap();
        assert_eq!(
            read(range(KeyRange::Prefix("/a/"), 7, 100)),
            json!({ "key": "L2Ev", "range_end": "L2Ew", "revision": "7", "limit": "100" })
        );
        assert_eq!(
            read(rest_of_range("/a/", b"/a/b", 7, 100)),
            json!({ "key": "L2EvYgA=", "range_end": "L2Ew", "revision": "7", "limit": "100" })
        );
        let swap = Transaction {
            conditions: &[Condition::Absent("/a/b"), Condition::Unchanged("/a/c", 9)],
            steps: &[
                WriteStep::Put {
                    key: "/a/b",
                    value: b"\xff",
                    lease: 5,
                },
                WriteStep::Delete("/a/c"),
            ],
        };
        assert_eq!(
            read(transaction(&swap)),
            json!({
                "compare": [
                    { "target": "CREATE", "result": "EQUAL", "key": "L2EvYg==", "create_revision": "0" },
                    { "target": "MOD", "result": "EQUAL", "key": "L2EvYw==", "mod_revision": "9" },
                ],
                "success": [
                    { "request_put": { "key": "L2EvYg==", "value": "/w==", "lease": "5" } },
                    { "request_delete_range": { "key": "L2EvYw==" } },
                ],
                "failure": [
                    { "request_range": { "key": "L2EvYg==" } },
                    { "request_range": { "key": "L2EvYw==" } },
                ],
            })
        );
        let watched = read(watch(KeyRange::One("/a/b"), 12));
        let request = json!({ "key": "L2EvYg==", "start_revision": "12", "progress_notify": true });
        assert_eq!(watched, json!({ "create_request": request }));
    }
}
