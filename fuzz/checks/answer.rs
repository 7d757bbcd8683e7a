//! Any bytes from an endpoint are parsed and validated as a response without a panic, and without
//! reading beyond them.

use tidegate::config::model::{HeaderChanges, Strictness};
use tidegate::protocol::edit::{Edit, TemplateValues};
use tidegate::protocol::handshake::Intent;
use tidegate::protocol::handshake_response::ResponseHead;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(Some((answer, head))) = ResponseHead::parse(bytes) else {
        return;
    };
    assert!(head <= bytes.len());
    let request = http::Request::get("/")
        .header("upgrade", "websocket")
        .header("connection", "upgrade")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "a, b")
        .header("sec-websocket-extensions", "permessage-deflate")
        .body(());
    let (parts, ()) = request.expect("it is valid").into_parts();
    let Ok(Intent::Handshake(handshake)) = Intent::of(&parts) else {
        unreachable!("it is a handshake");
    };
    let changes = HeaderChanges::default();
    for strictness in [Strictness::Strict, Strictness::Lenient] {
        if let Ok(switch) = answer.check_switch(&handshake, strictness) {
            let mut out = Vec::new();
            switch.write(
                &mut out,
                &Edit::new(&changes, &[], &TemplateValues::default()),
            );
            assert!(ResponseHead::parse(&out).is_ok_and(|answer| answer.is_some()));
        }
    }
}
