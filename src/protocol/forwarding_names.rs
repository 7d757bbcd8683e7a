//! The names of the fields in which proxies say who the client is.

use http::HeaderName;

use crate::config::model::claims_origin;

pub(super) const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
pub(super) const FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Whether field `name` claims to tell about the client. Underscores count as dashes, because some
/// endpoints make the same variable of both.
pub fn is_forwarding(name: &HeaderName) -> bool {
    claims_origin(name.as_str())
}
