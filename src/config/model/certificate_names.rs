//! The names and the issuer that a certificate states.

use x509_parser::prelude::{GeneralName, X509Certificate};

/// Characters of a name that are shown, at most.
const MAX_SHOWN: usize = 200;

/// The host names of a certificate, in lower case: its subject alternative names, or its common names if it has no
/// such extension.
pub fn host_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let written: Vec<&str> = match alternative {
        Some(extension) => {
            let names = extension.value.general_names.iter();
            let names = names.filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(*name),
                _ => None,
            });
            names.collect()
        }
        None => {
            let names = certificate.subject().iter_common_name();
            names.filter_map(|name| name.as_str().ok()).collect()
        }
    };
    written.into_iter().map(str::to_ascii_lowercase).collect()
}

/// The issuer of a certificate, for operators: its common name, or else all of its name.
pub fn issuer_name(certificate: &X509Certificate<'_>) -> String {
    let issuer = certificate.issuer();
    let mut common = issuer.iter_common_name();
    let common = common.find_map(|name| name.as_str().ok());
    let name = common.map_or_else(|| issuer.to_string(), str::to_owned);
    // It may come from anyone.
    let shown = name.chars().filter(|c| !c.is_control());
    shown.take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
    use x509_parser::prelude::FromDer;

    use super::*;

    fn read(subject: &[(DnType, &str)], names: &[&str]) -> (Vec<String>, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let names = names.iter();
        let names = names.map(|name| SanType::DnsName((*name).try_into().unwrap()));
        params.subject_alt_names = names.collect();
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let (_, certificate) = X509Certificate::from_der(made.der()).unwrap();
        (host_names(&certificate), issuer_name(&certificate))
    }

    #[test]
    fn a_certificate_has_the_names_that_it_says() {
        let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
        for (subject, names, expected, issuer) in [
            (
                &[(cn.clone(), "a.example")][..],
                &["B.example", "*.c.example"][..],
                &["b.example", "*.c.example"][..],
                "a.example",
            ),
            (&[(cn, "A.example")], &[], &["a.example"], "A.example"),
            (
                &[(o, "Exam\nple")],
                &["b.example"],
                &["b.example"],
                "O=Example",
            ),
        ] {
            let (found, issued_by) = read(subject, names);
            assert_eq!(found, expected);
            assert_eq!(issued_by, issuer);
        }
    }
}
