//! The names of a certificate's items in the store.

use std::fmt::Write as _;

use aws_lc_rs::digest;

use crate::config::model::ManagedCertificate;

/// Characters of a certificate's names in the name of its items, at most: a file name has 255.
const MAX_READABLE: usize = 80;

/// The name of a certificate's items: readable, valid as a file name, and unique.
pub(super) fn item_name(certificate: &ManagedCertificate) -> Box<str> {
    let mut names: Vec<String> = certificate.names.iter().map(ToString::to_string).collect();
    names.sort_unstable();
    names.dedup();
    let all = names.join(",");
    let readable = all.chars().map(|c| match c {
        'a'..='z' | '0'..='9' | '.' | '-' => c,
        '*' => '_',
        _ => '+',
    });
    let readable: String = readable.take(MAX_READABLE).collect();
    format!("{readable}+{}", short_hash(all.as_bytes())).into()
}

/// The beginning of the SHA-256 of `bytes`, in hexadecimal.
pub(super) fn short_hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = String::with_capacity(16);
    for byte in digest.as_ref().iter().take(8) {
        // Writing to a string does not fail.
        let _ = write!(hash, "{byte:02x}");
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::testing::certificate;

    #[test]
    fn names_of_items_are_readable_safe_and_unique() {
        let named = |names: &[&str]| item_name(&certificate(names)).into_string();
        let [one, other] = [
            named(&["b.example.com", "*.a.example.com"]),
            named(&["*.a.example.com", "b.example.com"]),
        ];
        assert_eq!(one, other);
        assert!(one.starts_with("_.a.example.com+b.example.com+"), "{one}");
        assert_ne!(one, named(&["b.example.com"]));
        let many: Vec<String> = (0..100)
            .map(|number| format!("n{number}.example.com"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(named(&many).len() < 120);
        assert_ne!(named(&many), named(&many[..99]));
        assert!(!named(&["../../etc/passwd"]).contains('/'));
    }
}
