//! The number of connections that one local address can have to one endpoint.

use std::fs;

/// The file with the port range that Linux chooses local ports from.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The size of the range by default.
const DEFAULT_COUNT: usize = 60_999 - 32_768 + 1;

/// The number of local ports that the kernel chooses from for outgoing connections.
pub fn local() -> usize {
    let text = fs::read_to_string(RANGE).ok();
    text.and_then(|text| count(&text)).unwrap_or(DEFAULT_COUNT)
}

/// The size of a range such as `32768 60999`, which includes both ends.
fn count(text: &str) -> Option<usize> {
    let mut bounds = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (bounds.next()?.ok()?, bounds.next()?.ok()?);
    let count = last.checked_sub(first)?;
    Some(usize::from(count) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_both_its_ends() {
        for (text, expected) in [
            ("32768\t60999\n", Some(28_232)),
            ("1024 65535", Some(64_512)),
            ("40000 40000", Some(1)),
            ("5 4", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
        assert!(local() > 0);
    }
}
