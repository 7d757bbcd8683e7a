//! The names of forwarding headers: the fields in which proxies state the client's identity.

use http::HeaderName;

use crate::config::model::claims_origin;

pub(super) const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Whether field `name` states something about the client. Underscores count as dashes, because
/// CGI-like interfaces turn both into the same variable.
pub fn is_forwarding(name: &HeaderName) -> bool {
    claims_origin(name.as_str())
}
