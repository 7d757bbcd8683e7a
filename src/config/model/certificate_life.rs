//! The validity of certificates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::prelude::X509Certificate;
use x509_parser::time::ASN1Time;

/// The validity of a certificate (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CertificateLife {
    /// Its start.
    pub not_before: SystemTime,
    /// Its end.
    pub not_after: SystemTime,
}

impl CertificateLife {
    /// The validity of this certificate. What was before 1970 counts as 1970.
    pub fn of(certificate: &X509Certificate<'_>) -> Self {
        let time = |at: ASN1Time| {
            let seconds = u64::try_from(at.timestamp()).unwrap_or_default();
            UNIX_EPOCH + Duration::from_secs(seconds)
        };
        let validity = certificate.validity();
        Self {
            not_before: time(validity.not_before),
            not_after: time(validity.not_after),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use x509_parser::prelude::FromDer;

    use super::*;

    #[test]
    fn times_are_read_and_none_is_before_1970() {
        let days = |count: u64| UNIX_EPOCH + Duration::from_secs(count * 86_400);
        for (begin, end, expected) in [
            (1970, 1971, (days(0), days(365))),
            (1960, 1972, (days(0), days(730))),
        ] {
            let mut params = CertificateParams::default();
            params.not_before = date_time_ymd(begin, 1, 1);
            params.not_after = date_time_ymd(end, 1, 1);
            let key = KeyPair::generate().unwrap();
            let made = params.self_signed(&key).unwrap();
            let (_, parsed) = X509Certificate::from_der(made.der()).unwrap();
            let life = CertificateLife::of(&parsed);
            assert_eq!((life.not_before, life.not_after), expected);
        }
    }
}
