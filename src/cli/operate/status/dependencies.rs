//! What tidegate gets from elsewhere, in `tidegate status`: keys that nodes share, and services.

use tidegate::admin::api::fleet::SharedKeyInfo;
use tidegate::admin::api::services::ServiceInfo;

use crate::cli::table::{harmless, short};

/// The key for one purpose that the node uses.
pub(super) fn of_shared_keys(used: &SharedKeyInfo) -> String {
    let purpose = match used.keys.as_str() {
        "ticket-keys" => "session tickets".to_owned(),
        "sticky-keys" => "sticky cookies".to_owned(),
        other => harmless(other),
    };
    let key = match (&used.key, used.age_seconds) {
        (Some(key), Some(age)) => {
            format!("shared key {}, in use for {}", harmless(key), short(age))
        }
        (Some(key), None) => format!("shared key {}", harmless(key)),
        (None, _) => "a key of this node alone".to_owned(),
    };
    let error = used.error.as_ref();
    let stale = error.map(|error| format!("; the store cannot be used: {}", harmless(error)));
    format!("key of {purpose}: {key}{}", stale.unwrap_or_default())
}

/// A service that did not answer the latest request.
pub(super) fn of_service(service: &ServiceInfo) -> Option<String> {
    let error = service.last_error.as_deref()?;
    let at = service.last_error_at.as_deref().unwrap_or_default();
    let (name, error) = (harmless(&service.service), harmless(error));
    Some(format!(
        "the latest request to {name} failed at {at}: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_a_line() {
        let used = |keys: &str, key: Option<&str>, error: Option<&str>| SharedKeyInfo {
            keys: keys.to_owned(),
            key: key.map(str::to_owned),
            age_seconds: key.map(|_| 7200),
            error: error.map(str::to_owned),
        };
        for (used, expected) in [
            (
                used("ticket-keys", Some("3f9a0c12"), None),
                "key of session tickets: shared key 3f9a0c12, in use for 2h",
            ),
            (
                used("sticky-keys", None, Some("no response")),
                "key of sticky cookies: a key of this node alone; the store cannot be used: no response",
            ),
        ] {
            assert_eq!(of_shared_keys(&used), expected);
        }
    }
}
