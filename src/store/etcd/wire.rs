//! The messages of etcd's JSON gateway: requests as they are written, responses as they are read. No I/O.
//!
//! They are protocol buffers in their JSON form: bytes in base64, 64-bit numbers as strings, and a field that has
//! its default left out. Both forms of numbers are read, and fields that are not known are skipped.

mod request;

pub use self::request::{Condition, KeyRange, Transaction, WriteStep};
pub(super) use self::request::{
    authenticate, grant, keep_alive, latest, range, rest_of_range, revoke, time_to_live,
    transaction, watch,
};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::config::model::Secret;

/// What is not a message of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response is not one of etcd's JSON gateway")]
pub struct MalformedMessage;

/// What etcd says instead of doing something: a code of gRPC, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdFailure {
    /// The code.
    pub code: i64,
    /// The sentence, such as `etcdserver: no leader`.
    pub message: Box<str>,
}

/// An item in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdItem {
    /// Its key.
    pub key: Box<str>,
    /// Its value.
    pub value: Bytes,
    /// The revision at which the key was created.
    pub created: i64,
    /// The revision of its latest change.
    pub modified: i64,
    /// The lease that it ends with; 0 without one.
    pub lease: i64,
}

/// Items of a range of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemPage {
    /// The revision of the whole store at that time.
    pub revision: i64,
    /// The items, by key.
    pub items: Vec<EtcdItem>,
    /// The key of the last one, as it is.
    pub last_key: Vec<u8>,
    /// Whether there are more.
    pub has_more: bool,
    /// How many there are in the whole range.
    pub count: i64,
}

/// What a transaction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionResult {
    /// Whether its conditions held.
    pub is_applied: bool,
    /// The revision of the store after it.
    pub revision: i64,
    /// The items that it has read instead.
    pub found: Vec<EtcdItem>,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedLease {
    /// Its number.
    pub id: i64,
    /// How long it lasts without being renewed, in seconds.
    pub ttl: i64,
}

/// A change of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemChange {
    /// It was created or replaced.
    Put(EtcdItem),
    /// The item with this key is gone.
    Delete(Box<str>),
}

/// A message of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchNews {
    /// The revision of the store up to which everything was said; 0 if the message says nothing about that.
    pub revision: i64,
    /// What has changed, in order; empty if only the revision is news.
    pub changes: Vec<ItemChange>,
    /// Why the watch is over, if it is.
    pub end: Option<WatchEnd>,
}

/// Why a watch is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEnd {
    /// What it was to begin with was compacted; this revision is the first that can be read.
    Compacted(i64),
    /// etcd has cancelled it.
    Cancelled(Box<str>),
    /// It has failed.
    Failed(EtcdFailure),
}

/// A page of a range.
///
/// # Errors
/// [`MalformedMessage`].
pub fn read_page(json: &[u8]) -> Result<ItemPage, MalformedMessage> {
    let written: WrittenRange = parsed(json)?;
    let last_key = written.kvs.last().map(|item| item.key.0.clone());
    Ok(ItemPage {
        revision: written.header.revision.0,
        items: written.kvs.into_iter().map(WrittenItem::item).collect(),
        last_key: last_key.unwrap_or_default(),
        has_more: written.more,
        count: written.count.0,
    })
}

/// The result of a transaction.
///
/// # Errors
/// [`MalformedMessage`].
pub fn read_transaction(json: &[u8]) -> Result<TransactionResult, MalformedMessage> {
    let written: WrittenTransaction = parsed(json)?;
    let ranges = written.responses.into_iter();
    let ranges = ranges.filter_map(|response| response.response_range);
    let items = ranges.flat_map(|range| range.kvs);
    Ok(TransactionResult {
        is_applied: written.succeeded,
        revision: written.header.revision.0,
        found: items.map(WrittenItem::item).collect(),
    })
}

/// A lease that was granted, or what is left of one: 0 or less if it is over.
///
/// # Errors
/// [`MalformedMessage`].
pub fn read_lease(json: &[u8]) -> Result<GrantedLease, MalformedMessage> {
    let written: WrittenLease = parsed(json)?;
    Ok(GrantedLease {
        id: written.id.0,
        ttl: written.ttl.0,
    })
}

/// The same from the response of a renewal, which is the first message of a stream.
///
/// # Errors
/// [`MalformedMessage`], or what etcd says instead.
pub fn read_renewal(json: &[u8]) -> Result<Result<GrantedLease, EtcdFailure>, MalformedMessage> {
    let written: WrittenMessage<WrittenLease> = parsed(json)?;
    match (written.result, written.error) {
        (Some(lease), None) => Ok(Ok(GrantedLease {
            id: lease.id.0,
            ttl: lease.ttl.0,
        })),
        (_, Some(error)) => Ok(Err(error.failure())),
        (None, None) => Err(MalformedMessage),
    }
}

/// A token that stands for a user.
///
/// # Errors
/// [`MalformedMessage`].
pub(super) fn read_token(json: &[u8]) -> Result<Secret, MalformedMessage> {
    let written: WrittenToken = parsed(json)?;
    let token = Secret::new(Zeroizing::new(written.token.into_bytes()));
    let is_valid = !token.bytes().is_empty() && token.bytes().iter().all(u8::is_ascii_graphic);
    is_valid.then_some(token).ok_or(MalformedMessage)
}

/// A message of a watch.
///
/// # Errors
/// [`MalformedMessage`].
pub fn read_news(json: &[u8]) -> Result<WatchNews, MalformedMessage> {
    let written: WrittenMessage<WrittenNews> = parsed(json)?;
    if let Some(error) = written.error {
        return Ok(WatchNews {
            revision: 0,
            changes: Vec::new(),
            end: Some(WatchEnd::Failed(error.failure())),
        });
    }
    let news = written.result.ok_or(MalformedMessage)?;
    let end = match news.compact_revision.0 {
        0 if news.canceled => Some(WatchEnd::Cancelled(news.cancel_reason.into())),
        0 => None,
        revision => Some(WatchEnd::Compacted(revision)),
    };
    // The header has the revision of the store, which the changes of this message may not have reached: a watch that
    // is behind gets them in parts. Only a message without any says that there are none until then.
    let latest = news
        .events
        .iter()
        .map(|event| event.kv.mod_revision.0)
        .max();
    let revision = match latest {
        None if news.created || end.is_some() => 0,
        None => news.header.revision.0,
        Some(revision) => revision,
    };
    let changes = news.events.into_iter().map(WrittenEvent::change);
    Ok(WatchNews {
        revision,
        changes: changes.collect(),
        end,
    })
}

/// What a response that is not a success says.
pub fn read_failure(json: &[u8]) -> Option<EtcdFailure> {
    let written: WrittenError = parsed(json).ok()?;
    let failure = written.failure();
    (failure.code != 0 || !failure.message.is_empty()).then_some(failure)
}

fn parsed<T: DeserializeOwned>(json: &[u8]) -> Result<T, MalformedMessage> {
    serde_json::from_slice(json).map_err(|_| MalformedMessage)
}

/// A 64-bit number, written as a string or as a number.
#[derive(Debug, Clone, Copy, Default)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            // Numbers of clusters and members are beyond the signed ones.
            Number(serde_json::Number),
            Nothing(()),
        }
        match Written::deserialize(deserializer)? {
            Written::Text(text) => text.parse().map(Self).map_err(D::Error::custom),
            Written::Number(number) => number
                .as_i64()
                .map(Self)
                .ok_or_else(|| D::Error::custom("not a 64-bit number")),
            Written::Nothing(()) => Ok(Self(0)),
        }
    }
}

/// Bytes in base64.
#[derive(Debug, Clone, Default)]
struct Base64(Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let text = text.unwrap_or_default();
        STANDARD.decode(&*text).map(Self).map_err(D::Error::custom)
    }
}

#[derive(Debug, Default, Deserialize)]
struct WrittenHeader {
    #[serde(default)]
    revision: Number,
}

#[derive(Debug, Default, Deserialize)]
struct WrittenItem {
    #[serde(default)]
    key: Base64,
    #[serde(default)]
    value: Base64,
    #[serde(default)]
    create_revision: Number,
    #[serde(default)]
    mod_revision: Number,
    #[serde(default)]
    lease: Number,
}

impl WrittenItem {
    fn item(self) -> EtcdItem {
        EtcdItem {
            key: key(self.key.0),
            value: self.value.0.into(),
            created: self.create_revision.0,
            modified: self.mod_revision.0,
            lease: self.lease.0,
        }
    }
}

/// A key as text. One that is not UTF-8 is not tidegate's; it becomes a text that no key of tidegate's is, so that
/// it is counted all the same.
fn key(bytes: Vec<u8>) -> Box<str> {
    match String::from_utf8(bytes) {
        Ok(key) => key.into(),
        Err(error) => format!("\u{fffd}{}", STANDARD.encode(error.as_bytes())).into(),
    }
}

#[derive(Debug, Default, Deserialize)]
struct WrittenRange {
    #[serde(default)]
    header: WrittenHeader,
    #[serde(default)]
    kvs: Vec<WrittenItem>,
    #[serde(default)]
    more: bool,
    #[serde(default)]
    count: Number,
}

#[derive(Debug, Deserialize)]
struct WrittenTransaction {
    #[serde(default)]
    header: WrittenHeader,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<WrittenResponse>,
}

#[derive(Debug, Deserialize)]
struct WrittenResponse {
    #[serde(default)]
    response_range: Option<WrittenRange>,
}

#[derive(Debug, Deserialize)]
struct WrittenLease {
    #[serde(rename = "ID", default)]
    id: Number,
    #[serde(rename = "TTL", default)]
    ttl: Number,
}

#[derive(Debug, Deserialize)]
struct WrittenToken {
    token: String,
}

/// A message of a stream.
#[derive(Debug, Deserialize)]
struct WrittenMessage<T> {
    #[serde(default = "Option::default")]
    result: Option<T>,
    #[serde(default)]
    error: Option<WrittenError>,
}

#[derive(Debug, Deserialize)]
struct WrittenNews {
    #[serde(default)]
    header: WrittenHeader,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    #[serde(default)]
    compact_revision: Number,
    #[serde(default)]
    events: Vec<WrittenEvent>,
}

#[derive(Debug, Deserialize)]
struct WrittenEvent {
    #[serde(rename = "type", default)]
    kind: WrittenKind,
    #[serde(default)]
    kv: WrittenItem,
}

/// The kind of an event, by name or by number.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged)]
enum WrittenKind {
    Name(String),
    Number(u8),
    #[default]
    Nothing,
}

impl WrittenEvent {
    fn change(self) -> ItemChange {
        let is_deletion = match &self.kind {
            WrittenKind::Name(name) => name == "DELETE",
            WrittenKind::Number(number) => *number == 1,
            WrittenKind::Nothing => false,
        };
        let item = self.kv.item();
        match is_deletion {
            true => ItemChange::Delete(item.key),
            false => ItemChange::Put(item),
        }
    }
}

/// An error, in the forms of several versions of the gateway, alone or in a stream.
#[derive(Debug, Default, Deserialize)]
struct WrittenError {
    #[serde(default)]
    message: String,
    /// The same text in older versions, or nothing.
    #[serde(default)]
    error: serde_json::Value,
    #[serde(default)]
    code: Number,
    #[serde(default)]
    grpc_code: Number,
}

impl WrittenError {
    fn failure(self) -> EtcdFailure {
        let message = match (self.message.is_empty(), self.error) {
            (true, serde_json::Value::String(error)) => error,
            _ => self.message,
        };
        let code = match self.code.0 {
            0 => self.grpc_code.0,
            code => code,
        };
        EtcdFailure {
            code,
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests;
