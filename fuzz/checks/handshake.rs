//! Any request head is validated, routed and written to the endpoint without a panic, and what is written
//! is one complete head.

use tidegate::config::model::HeaderChanges;
use tidegate::protocol::edit::{Edit, TemplateValues};
use tidegate::protocol::forwarded::ForwardingFacts;
use tidegate::protocol::handshake::{HandshakeRequest, Intent};
use tidegate::protocol::header_case::HeaderCase;
use tidegate::protocol::target::Target;

const LINES: usize = 100;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut head = httparse::Request::new(&mut lines);
    let Ok(httparse::Status::Complete(_)) = head.parse(bytes) else {
        return;
    };
    let mut request = http::Request::builder()
        .method(head.method.unwrap_or_default())
        .uri(head.path.unwrap_or_default())
        .version(if head.version == Some(1) {
            http::Version::HTTP_11
        } else {
            http::Version::HTTP_10
        });
    for line in head.headers.iter() {
        request = request.header(line.name, line.value);
    }
    let Ok(request) = request.body(()) else {
        return;
    };
    let (parts, ()) = request.into_parts();
    let (Intent::WebSocket(Ok(handshake)), Ok(target)) = (Intent::of(&parts), Target::of(&parts))
    else {
        return;
    };
    assert_eq!(handshake.accept().len(), 28);
    let changes = HeaderChanges::default();
    for compression in [true, false] {
        let mut out = Vec::new();
        HandshakeRequest {
            parts: &parts,
            origin_form: target.origin_form(),
            host: target.authority().unwrap_or("10.0.0.1:80"),
            forwarding: ForwardingFacts {
                client: None,
                is_known: true,
                proxies: &[],
                secure: false,
                host: target.authority(),
                port: Some(80),
            },
            edit: &Edit::new(&changes, &[], &TemplateValues::default()),
            compression,
            header_case: HeaderCase::of(bytes),
        }
        .write(&mut out);
        let mut lines = [httparse::EMPTY_HEADER; LINES + 8];
        let written = httparse::Request::new(&mut lines).parse(&out);
        assert_eq!(written, Ok(httparse::Status::Complete(out.len())));
    }
}
