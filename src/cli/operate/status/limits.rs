//! The limits that routes share, in `tidegate status`.

use tidegate::admin::api::limits::LimitSummary;

use crate::cli::table::harmless;

/// A line for each limit.
pub(super) fn of_limits(limits: &[LimitSummary]) -> Vec<String> {
    let line = |limit: &LimitSummary| {
        let LimitSummary {
            name,
            keys,
            max_keys,
            refused,
        } = limit;
        let name = harmless(name);
        format!(
            "limit {name}: {keys} of at most {max_keys} keys in use, {refused} requests refused"
        )
    };
    limits.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_line() {
        let limit = |name: &str, keys, refused| LimitSummary {
            name: name.to_owned(),
            keys,
            max_keys: 262_144,
            refused,
        };
        assert_eq!(
            of_limits(&[limit("per-client", 120, 7), limit("per-room", 0, 0)]),
            [
                "limit per-client: 120 of at most 262144 keys in use, 7 requests refused",
                "limit per-room: 0 of at most 262144 keys in use, 0 requests refused",
            ]
        );
        assert!(of_limits(&[]).is_empty());
    }
}
