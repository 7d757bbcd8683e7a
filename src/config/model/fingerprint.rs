//! Fingerprints of certificates.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};

/// The SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateFingerprint([u8; 32]);

impl CertificateFingerprint {
    /// The fingerprint of this certificate.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` prints them, with or without colons.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("sha256:").unwrap_or(text);
        let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [high, low] =
                [pair.first()?, pair.get(1)?].map(|digit| char::from(*digit).to_digit(16));
            *byte = u8::try_from(high? * 16 + low?).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_as_tools_print_them() {
        let fingerprint = CertificateFingerprint::of(b"certificate");
        let plain = fingerprint.to_string();
        let pairs: Vec<&str> = (0..32).map(|at| &plain[2 * at..2 * at + 2]).collect();
        let colons = pairs.join(":").to_uppercase();
        for text in [plain.clone(), format!("sha256:{plain}"), colons] {
            assert_eq!(
                CertificateFingerprint::parse(&text),
                Some(fingerprint),
                "{text}"
            );
        }
        for bad in [
            "",
            "ab",
            &plain[1..],
            &format!("{plain}00"),
            &plain.replace('a', "g"),
        ] {
            let differs = CertificateFingerprint::parse(bad) != Some(fingerprint) || bad == plain;
            assert!(differs, "{bad}");
        }
        assert_eq!(CertificateFingerprint::parse("zz"), None);
    }
}
