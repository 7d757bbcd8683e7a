//! Interim responses of an endpoint (RFC 9110 section 15.2), as the client gets them.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use super::edit::Edit;
use super::header_case::write_field;
use super::hop_by_hop::HopByHop;

/// Writes the head of an interim response for the client. Fields that the configuration removes are left out;
/// those that it sets are for the final response.
pub fn write(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap, edit: &Edit<'_>) {
    let reason = status.canonical_reason().unwrap_or("Interim");
    out.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).as_bytes());
    let hop_by_hop = HopByHop::of(headers);
    for (name, value) in headers {
        let is_framing = *name == CONTENT_LENGTH;
        if is_framing || hop_by_hop.contains(name) || edit.drops(name.as_str()) {
            continue;
        }
        let value = value.as_bytes();
        let restored = edit.restored(name.as_str(), value);
        write_field(out, name, restored.as_deref().unwrap_or(value), None);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::HeaderChanges;
    use crate::protocol::edit;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn interim_responses_keep_what_is_meant_for_the_client() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("link", "</a.css>; rel=preload"),
            ("link", "</b.css>; rel=preload"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-length", "0"),
            ("transfer-encoding", "chunked"),
            ("server", "old"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let changes = HeaderChanges {
            set: Vec::new(),
            remove: vec![HeaderName::from_static("server")],
        };
        let edit = Edit::new(&changes, &[], &edit::tests::values());
        let mut out = Vec::new();
        write(&mut out, StatusCode::EARLY_HINTS, &headers, &edit);
        let expected = "HTTP/1.1 103 Early Hints\r\n\
            Link: </a.css>; rel=preload\r\nLink: </b.css>; rel=preload\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
