//! How many connections one address of this machine can have to one endpoint.

use std::fs;

/// Where Linux says which ports it chooses from.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What it says if nobody has changed it.
const USUAL: usize = 60_999 - 32_768 + 1;

/// Ports that the kernel chooses from for connections of ours.
pub fn local() -> usize {
    let text = fs::read_to_string(RANGE).ok();
    text.and_then(|text| count(&text)).unwrap_or(USUAL)
}

/// `32768 60999`: both are among them.
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
