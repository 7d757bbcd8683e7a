//! What is removed from a request before endpoints, keys and header templates see it: a credential in its query
//! or among its subprotocols.

use http::header::SEC_WEBSOCKET_PROTOCOL;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

/// What a request has instead of the places that its credential was in.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Redaction {
    /// Path and query without the credential, if it was in the query.
    pub path_and_query: Option<PathAndQuery>,
    /// The subprotocols that are left, if the credential was among them: `Some(None)` if none is.
    pub subprotocols: Option<Option<HeaderValue>>,
    /// The subprotocol that the client gets if the endpoint selects none: browsers fail a handshake whose offer
    /// gets no answer.
    pub marker: Option<Box<str>>,
}

impl Redaction {
    /// Whether the request stays as it is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Removes the credential from a request.
    pub fn apply(&self, parts: &mut Parts) {
        if let Some(path_and_query) = &self.path_and_query {
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.path_and_query = Some(path_and_query.clone());
            // The scheme and the authority were valid with the path before, and neither contains the path.
            parts.uri = Uri::from_parts(uri).unwrap_or_else(|_| Uri::from(path_and_query.clone()));
        }
        match &self.subprotocols {
            None => {}
            Some(None) => {
                parts.headers.remove(SEC_WEBSOCKET_PROTOCOL);
            }
            Some(Some(left)) => {
                let left = left.clone();
                parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, left);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_request_loses_its_credential_and_nothing_else() {
        for (target, expected) in [
            ("/a?token=x&b=1", "/a?b=1"),
            (
                "http://chat.example.com/a?token=x&b=1",
                "http://chat.example.com/a?b=1",
            ),
        ] {
            let request = Request::get(target)
                .header("sec-websocket-protocol", "chat, bearer")
                .header("sec-websocket-protocol", "x")
                .header("x-other", "kept");
            let mut parts = request.body(()).unwrap().into_parts().0;
            let redaction = Redaction {
                path_and_query: Some(PathAndQuery::from_static("/a?b=1")),
                subprotocols: Some(Some(HeaderValue::from_static("chat"))),
                marker: None,
            };
            redaction.apply(&mut parts);
            assert_eq!(parts.uri.to_string(), expected);
            let offers: Vec<_> = parts
                .headers
                .get_all(SEC_WEBSOCKET_PROTOCOL)
                .iter()
                .collect();
            assert_eq!(offers, ["chat"]);
            assert_eq!(parts.headers["x-other"], "kept");
            let none_left = Redaction {
                subprotocols: Some(None),
                ..Redaction::default()
            };
            none_left.apply(&mut parts);
            assert!(!parts.headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
            assert!(!none_left.is_empty() && Redaction::default().is_empty());
        }
    }
}
