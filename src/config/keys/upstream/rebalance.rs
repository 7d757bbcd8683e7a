//! What endpoints that have too much give up.

use super::super::{KeyTable, ValueKind, key};

pub(super) const REBALANCE: KeyTable = KeyTable {
    doc: "Moves tunnels from endpoints that have more than their share.",
    keys: &[
        key(
            "mode",
            ValueKind::OneOf(&["dry_run", "on"]),
            "\"dry_run\"",
            "Whether they are moved, or it is only told how many would be.",
        )
        .shown(r#"mode = "on""#),
        key(
            "factor",
            ValueKind::Number {
                least: 1.05,
                most: 100.0,
            },
            "1.2",
            "What an endpoint may have, relative to its share.",
        )
        .shown("factor = 1.5"),
        key("rate", ValueKind::Rate, "\"5/s\"", "So many per time.").shown(r#"rate = "20/s""#),
        key(
            "min_age",
            ValueKind::Duration,
            "\"10m\"",
            "Younger tunnels stay.",
        )
        .shown(r#"min_age = "1h""#),
    ],
};
