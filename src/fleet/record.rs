//! What a node says about itself in the store. No I/O.

use serde::{Deserialize, Serialize};

use super::place::ProcessPlace;
use crate::config::model::is_endpoint_name;

/// The largest record that is read, in bytes.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// The drains that a record lists, at most.
pub const MAX_DRAINS: usize = 64;

/// The longest text of any field that is read, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its name.
    pub node: String,
    /// What distinguishes it from any other node with the same name. The processes of an upgrade have the same.
    pub instance: String,
    /// The URL of its admin interface, if others can reach that.
    #[serde(default)]
    pub admin: Option<String>,
    /// Version of tidegate.
    #[serde(default)]
    pub version: String,
    /// Number of the process in the sequence of upgrades.
    #[serde(default)]
    pub generation: u64,
    /// When the process started.
    #[serde(default)]
    pub started: String,
    /// Where the process is.
    #[serde(default)]
    pub place: String,
    /// Its process id.
    #[serde(default)]
    pub pid: u32,
    /// When it started, in ticks since the boot of its machine.
    #[serde(default)]
    pub pid_start: u64,
    /// What changes while it runs.
    #[serde(flatten)]
    pub load: MemberLoad,
}

/// What changes while a node runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberLoad {
    /// Whether it is stopping.
    #[serde(default)]
    pub draining: bool,
    /// Its live tunnels.
    #[serde(default)]
    pub tunnels: u64,
    /// The endpoints and listeners that operators have drained there, the first of them.
    #[serde(default)]
    pub drains: Vec<String>,
    /// How many more there are.
    #[serde(default)]
    pub more_drains: usize,
}

impl MemberRecord {
    /// The record of the node with this name; `None` if this is not one.
    pub fn parse(node: &str, json: &[u8]) -> Option<Self> {
        if json.len() > MAX_RECORD_BYTES || !is_endpoint_name(node) {
            return None;
        }
        let record: Self = serde_json::from_slice(json).ok()?;
        let is_own = record.node == node && !record.instance.is_empty();
        (is_own && record.is_bounded()).then_some(record)
    }

    fn is_bounded(&self) -> bool {
        let texts = [&self.instance, &self.version, &self.started, &self.place];
        let drains = &self.load.drains;
        let mut texts = texts.into_iter().chain(&self.admin).chain(drains);
        drains.len() <= MAX_DRAINS && texts.all(|text| text.len() <= MAX_TEXT_BYTES)
    }

    /// The record as it is stored.
    pub fn to_json(&self) -> Vec<u8> {
        // It consists of texts and numbers only.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The process.
    pub fn process(&self) -> ProcessPlace {
        ProcessPlace {
            place: self.place.as_str().into(),
            pid: self.pid,
            start: self.pid_start,
        }
    }
}

impl MemberLoad {
    /// With these drains, or the first of them.
    #[must_use]
    pub fn with_drains(mut self, mut drains: Vec<String>) -> Self {
        drains.retain(|drain| drain.len() <= MAX_TEXT_BYTES);
        self.more_drains = drains.len().saturating_sub(MAX_DRAINS);
        drains.truncate(MAX_DRAINS);
        self.drains = drains;
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> MemberRecord {
        MemberRecord {
            node: "edge-1".to_owned(),
            instance: "a1".to_owned(),
            admin: Some("https://edge-1.internal:9900".to_owned()),
            version: "0.1.0".to_owned(),
            generation: 3,
            started: "2026-11-30T10:00:00Z".to_owned(),
            place: "boot pid:[1]".to_owned(),
            pid: 7,
            pid_start: 99,
            load: MemberLoad::default(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_a_record_is_not() {
        let mut written = record();
        written.load.tunnels = u64::MAX;
        written.load = written
            .load
            .with_drains(vec!["chat 10.0.0.1:9000".to_owned(); MAX_DRAINS + 3]);
        assert_eq!(written.load.more_drains, 3);
        let json = written.to_json();
        assert_eq!(MemberRecord::parse("edge-1", &json), Some(written));
        assert_eq!(MemberRecord::parse("edge-2", &json), None);
        let of = |json: &str| MemberRecord::parse("edge-1", json.as_bytes());
        assert!(of(r#"{"node":"edge-1","instance":"a","later":[1]}"#).is_some());
        for json in [
            "",
            "{}",
            r#"{"node":"edge-1","instance":""}"#,
            r#"{"node":"edge-1","instance":"a","tunnels":-1}"#,
            &format!(
                r#"{{"node":"edge-1","instance":"{}"}}"#,
                "a".repeat(MAX_TEXT_BYTES + 1)
            ),
            &format!(
                r#"{{"node":"edge-1","instance":"a","x":"{}"}}"#,
                "a".repeat(MAX_RECORD_BYTES)
            ),
        ] {
            assert_eq!(of(json), None, "{}", json.get(..60).unwrap_or(json));
        }
        let many = vec!["a"; MAX_DRAINS + 1];
        let many = serde_json::json!({ "node": "edge-1", "instance": "a", "drains": many });
        assert_eq!(of(&many.to_string()), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(json in "\\PC{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = MemberRecord::parse("edge-1", json.as_bytes());
            let _ = MemberRecord::parse(&json, &bytes);
        }
    }
}
