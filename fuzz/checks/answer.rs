//! Any bytes from an endpoint are parsed and validated as a response without a panic, and without
//! reading beyond them. Whatever it selects may be selected if the client has offered just that.

use tidegate::config::model::{HeaderChanges, Rewrite, Strictness};
use tidegate::protocol::edit::{Edit, TemplateValues};
use tidegate::protocol::handshake::Intent;
use tidegate::protocol::handshake_response::{ResponseHead, SwitchError};

const LINES: usize = 100;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(Some((answer, head))) = ResponseHead::parse(bytes) else {
        return;
    };
    assert!(head <= bytes.len());
    check_against(&answer, &[b"permessage-deflate"]);
    let selected = lines_of(bytes, "sec-websocket-extensions");
    let error = check_against(&answer, &selected);
    assert!(!matches!(error, Some(SwitchError::Extension(_))));
}

/// The values of a field in the head at the beginning of `bytes`.
fn lines_of<'a>(bytes: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut head = httparse::Response::new(&mut lines);
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    let parsed = parser.parse_response(&mut head, bytes);
    assert!(parsed.is_ok_and(|status| status.is_complete()));
    let named = head
        .headers
        .iter()
        .filter(|line| line.name.eq_ignore_ascii_case(name));
    named.map(|line| line.value).collect()
}

/// Validates a response for a client that offers these extensions: the error, if it is not a valid 101.
fn check_against(answer: &ResponseHead<'_>, extensions: &[&[u8]]) -> Option<SwitchError> {
    let mut request = http::Request::get("/")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "a, b");
    for line in extensions {
        request = request.header("sec-websocket-extensions", *line);
    }
    let (parts, ()) = request.body(()).expect("it is valid").into_parts();
    let Intent::WebSocket(Ok(handshake)) = Intent::of(&parts) else {
        unreachable!("it is a handshake");
    };
    let changes = HeaderChanges::default();
    let rewrite = Rewrite {
        strip: Some("/api".into()),
        add: None,
        restore: true,
    };
    let mut error = None;
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        match answer.check_switch(&handshake, strictness) {
            Err(fault) => error = Some(fault),
            Ok(switch) => {
                let mut out = Vec::new();
                let mut edit = Edit::new(&changes, &[], &TemplateValues::default());
                edit.restore_prefix(&rewrite, Some("a"), || "b".into());
                switch.write(&mut out, &edit);
                assert!(ResponseHead::parse(&out).is_ok_and(|answer| answer.is_some()));
            }
        }
    }
    error
}
