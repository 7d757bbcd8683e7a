//! The key of a request, wherever a setting depends on one.

use super::{KeyTable, ValueKind, key};

/// A key: a word, or a table that names a header, cookie, query parameter or claim.
pub(super) const REQUEST_KEY: ValueKind = ValueKind::AnyOf(&[
    ValueKind::OneOf(&["client_ip", "path", "sni"]),
    ValueKind::Table(&NAMED_KEY),
]);

const NAMED_KEY: KeyTable = KeyTable {
    doc: "The key is the value of a header, cookie, query parameter or claim.",
    keys: &[
        key(
            "header",
            ValueKind::Text,
            "",
            "The key is the value of this header.",
        )
        .shown(r#"header = "x-user""#),
        key(
            "cookie",
            ValueKind::Text,
            "",
            "The key is the value of this cookie.",
        )
        .shown(r#"cookie = "sid""#),
        key(
            "query",
            ValueKind::Text,
            "",
            "The key is the value of this query parameter.",
        )
        .shown(r#"query = "room""#),
        key(
            "claim",
            ValueKind::Text,
            "",
            "The key is the value of this claim of the identity that the route's `auth` has established.",
        )
        .shown(r#"claim = "sub""#),
    ],
};
