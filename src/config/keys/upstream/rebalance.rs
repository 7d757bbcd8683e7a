//! Moving tunnels away from endpoints that have more than their share.

use super::super::{DURATION_OR_ZERO, KeyTable, ValueKind, key};

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
        .instead_of_zero("to move no tunnel, leave the table `rebalance` out")
        .shown(r#"rate = "20/s""#),
        key(
            "min_age",
            DURATION_OR_ZERO,
            "\"10m\"",
            "Tunnels younger than this are not moved; with `0s`, tunnels of any age are.",
        )
        .shown(r#"min_age = "1h""#),
    ],
};
