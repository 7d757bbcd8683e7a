//! Whose a name is: a node's own, that of a process which is gone, or another node's. No I/O.

use std::sync::Arc;

use super::place::ProcessPlace;
use super::record::MemberRecord;

/// What distinguishes this node from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The instance: all processes of a sequence of upgrades have the same.
    pub instance: Arc<str>,
    /// This process.
    pub process: ProcessPlace,
}

/// How a node that has the name of this one stands to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is this one, or its predecessor in an upgrade.
    Own,
    /// It was a process on this machine that has ended.
    Gone,
    /// It is another process on this machine, which lives.
    Lives,
    /// It is elsewhere: its lease shows whether it lives.
    Elsewhere,
}

/// Whether this node has its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NodeNameClaim {
    /// It is not known yet: the store has not been reached.
    #[default]
    Pending,
    /// It has it.
    Held,
    /// Another one has it.
    Taken(Arc<MemberRecord>),
}

impl Standing {
    /// How the node that has written `record` stands to this one.
    pub fn of(record: &MemberRecord, own: &NodeIdentity) -> Self {
        if *record.instance == *own.instance {
            return Self::Own;
        }
        match record.process().is_alive(&own.process) {
            Some(true) => Self::Lives,
            Some(false) => Self::Gone,
            None => Self::Elsewhere,
        }
    }

    /// Whether this node may take the name now.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Own | Self::Gone)
    }
}

/// Whether a lease was renewed between two looks at it, given how many seconds were left each time. What is left
/// only falls otherwise.
pub fn is_renewed(before: i64, after: i64) -> bool {
    after > before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::record::MemberLoad;

    #[test]
    fn a_name_belongs_to_its_instance_and_to_whoever_lives() {
        let process = ProcessPlace::own();
        let own = NodeIdentity {
            instance: "a".into(),
            process: process.clone(),
        };
        let record = |instance: &str, place: &str, start: u64| MemberRecord {
            node: "edge-1".to_owned(),
            instance: instance.to_owned(),
            admin: None,
            version: String::new(),
            generation: 1,
            started: String::new(),
            place: place.to_owned(),
            pid: process.pid,
            pid_start: start,
            load: MemberLoad::default(),
        };
        for (record, expected) in [
            (record("a", "elsewhere", 0), Standing::Own),
            (record("b", &process.place, process.start), Standing::Lives),
            (
                record("b", &process.place, process.start + 1),
                Standing::Gone,
            ),
            (record("b", "elsewhere", process.start), Standing::Elsewhere),
            (record("b", "", 0), Standing::Elsewhere),
        ] {
            assert_eq!(Standing::of(&record, &own), expected, "{record:?}");
        }
        assert!(is_renewed(20, 30) && !is_renewed(20, 20) && !is_renewed(20, 19));
    }
}
