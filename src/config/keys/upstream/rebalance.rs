//! Moving tunnels away from endpoints that have more than their share.

use super::super::{KeyTable, ValueKind, key};

pub(super) const REBALANCE: KeyTable = KeyTable {
    doc: "tidegate moves tunnels away from endpoints that have more than their share, by closing them so that the clients reconnect elsewhere.",
    keys: &[
        key(
            "mode",
            ValueKind::OneOf(&["dry_run", "on"]),
            "\"dry_run\"",
            "`on` moves tunnels; `dry_run` only reports how many it would move.",
        )
        .shown(r#"mode = "on""#),
        key(
            "factor",
            ValueKind::Number {
                min: 1.05,
                max: 100.0,
            },
            "1.2",
            "An endpoint gives up tunnels when it has more than this many times its share of them.",
        )
        .shown("factor = 1.5"),
        key(
            "rate",
            ValueKind::Rate,
            "\"5/s\"",
            "Tunnels are moved at this rate, for example `20/s` or `100/m`.",
        )
        .shown(r#"rate = "20/s""#),
        key(
            "min_age",
            ValueKind::Duration,
            "\"10m\"",
            "Tunnels younger than this are not moved.",
        )
        .shown(r#"min_age = "1h""#),
    ],
};
