//! Warnings that strangers and dead endpoints cause: each cause once a minute, not once per session.

use crate::source::{Source, sources};

/// Where the code runs once per connection, request, session or check.
const PER_SESSION: [&str; 12] = [
    "src/admin/public",
    "src/admin/view",
    "src/displace",
    "src/front",
    "src/net",
    "src/probe",
    "src/protocol",
    "src/route",
    "src/session",
    "src/tunnel",
    "src/upstream",
    "src/server/acceptor",
];

/// Messages that are not logged by `warn_once_a_minute!`, and what limits each of them.
const LIMITED: [(&str, &str); 13] = [
    (
        "TLS handshake failed; each",
        "`FailureReports` of the listener",
    ),
    (
        "cannot accept connections;",
        "`FailureReports` of the listener",
    ),
    (
        "cannot accept connections on",
        "once per listener and worker",
    ),
    ("connections refused", "`Gate::refused`"),
    ("connection limit reached", "`RecurringTrouble`"),
    ("cannot create a new session", "`RecurringTrouble`"),
    ("worker too busy to report", "`RecurringTrouble`"),
    ("endpoint unreachable", "`RecurringTrouble` of the endpoint"),
    ("endpoint ejected", "the time of the ejection"),
    ("name not resolved;", "`FailureReports` of the resolver"),
    ("probe failed", "`FailureReports` of the route"),
    ("worker does not respond;", "once per worker and job"),
    ("nothing is closed at a pace", "once per stop or upgrade"),
];

/// The messages of warnings and errors in `source`.
fn messages(source: &Source) -> Vec<&str> {
    let text = source.without_tests();
    let calls = ["tracing::warn!(", "tracing::error!("];
    let starts = calls.iter().flat_map(|call| text.match_indices(call));
    let rest = starts.map(|(at, _)| text[at..].split_once('(').unwrap().1);
    let call = rest.map(|rest| &rest[..end(rest)]);
    // The message is the last text in it.
    call.map(|call| call.rsplit('"').nth(1).unwrap_or(call))
        .collect()
}

/// Where the bracket that is open at the beginning of `text` is closed.
fn end(text: &str) -> usize {
    let mut open = 1;
    let closes = |(_, byte): &(usize, u8)| {
        match byte {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => {}
        }
        open == 0
    };
    let found = text.bytes().enumerate().find(closes);
    found.map_or(text.len(), |(at, _)| at)
}

fn is_limited(message: &str) -> bool {
    LIMITED.iter().any(|(known, _)| message.starts_with(known))
}

#[test]
fn warnings_about_sessions_are_limited() {
    let all = sources("src");
    let per_session = |source: &&Source| PER_SESSION.iter().any(|it| source.path.starts_with(it));
    let all: Vec<&str> = all.iter().filter(per_session).flat_map(messages).collect();
    let unlimited: Vec<_> = all.iter().filter(|it| !is_limited(it)).collect();
    assert!(unlimited.is_empty(), "{unlimited:#?}");
    for (known, why) in LIMITED {
        let is_used = all.iter().any(|message| message.starts_with(known));
        assert!(is_used, "{known}: {why}");
    }

    let flood = "tracing::warn!(\n    %session,\n    \"it fails\"\n);\n";
    let flood = Source::new("src/session/a.rs", flood);
    assert_eq!(messages(&flood), ["it fails"]);
    assert!(!is_limited("it fails"));
}
