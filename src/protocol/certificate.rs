//! The parameters of a TLS connection, and the client's certificate.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_lc_rs::digest;
use http::HeaderValue;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

use crate::config::model::{CertificateFingerprint, CertificateLife, CertificateRule};

/// The parameters of a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// The protocol version: `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// The server name that the client sent (SNI).
    pub server_name: Option<Box<str>>,
    /// The client's certificate, if it sent one. Its chain has been verified.
    pub certificate: Option<ClientCertificate>,
}

/// A client's certificate, as far as headers and logs show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The subject in the form of RFC 4514, most specific part first.
    pub subject: Box<str>,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: Box<str>,
    /// Its subject alternative names: DNS names in lower case, URIs, addresses of mail.
    pub names: Box<[Box<str>]>,
    chain: Box<[CertificateKey]>,
    not_after: SystemTime,
}

/// What distinguishes a certificate from others: the beginning of the SHA-256 of its issuer and its serial number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateKey([u8; 16]);

impl CertificateKey {
    /// The key of the certificate that `issuer`, a name in DER, has issued with this serial number.
    pub fn of(issuer: &[u8], serial: &[u8]) -> Self {
        let mut hashed = digest::Context::new(&digest::SHA256);
        hashed.update(&(issuer.len() as u64).to_be_bytes());
        hashed.update(issuer);
        // A serial number that looks negative has a zero in front.
        let zeros = serial.iter().take_while(|byte| **byte == 0).count();
        hashed.update(serial.get(zeros..).unwrap_or_default());
        let mut key = [0; 16];
        for (to, from) in key.iter_mut().zip(hashed.finish().as_ref()) {
            *to = *from;
        }
        Self(key)
    }
}

impl ClientCertificate {
    /// Parses the first certificate of a chain in DER; `None` if there is none, or if it is not valid.
    pub fn parse(chain: &[impl AsRef<[u8]>]) -> Option<Self> {
        let der = chain.first()?.as_ref();
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let keys = chain.iter().filter_map(|each| {
            let (_, parsed) = X509Certificate::from_der(each.as_ref()).ok()?;
            let issuer = parsed.issuer().as_raw();
            Some(CertificateKey::of(issuer, parsed.raw_serial()))
        });
        Some(Self {
            subject: subject(parsed.subject()).into(),
            fingerprint: CertificateFingerprint::of(der).to_string().into(),
            names: names(&parsed),
            chain: keys.collect(),
            not_after: CertificateLife::of(&parsed).not_after,
        })
    }

    /// Whether a route with this rule admits it.
    pub fn satisfies(&self, rule: &CertificateRule) -> bool {
        let mut names = self.names.iter();
        let mut has_name = || names.any(|name| rule.names.iter().any(|wanted| wanted.fits(name)));
        let mut subjects = rule.subjects.iter();
        (rule.names.is_empty() || has_name())
            && (rule.subjects.is_empty() || subjects.any(|wanted| *wanted == self.subject))
    }

    /// Whether the certificate has expired. Verification alone does not show that: a resumed TLS
    /// session was verified when it began.
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.not_after < now
    }

    /// The keys of the certificate and of those that it depends on.
    pub fn chain(&self) -> &[CertificateKey] {
        &self.chain
    }

    /// When it expires.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The header value for endpoints, in the form of Envoy's `X-Forwarded-Client-Cert`.
    pub fn header(&self) -> Option<HeaderValue> {
        let mut value = format!("Hash={};Subject=\"", self.fingerprint);
        for c in self.subject.chars() {
            if matches!(c, '"' | '\\') {
                value.push('\\');
            }
            value.push(c);
        }
        value.push('"');
        HeaderValue::from_str(&value).ok()
    }
}

/// The subject alternative names that are text.
fn names(certificate: &X509Certificate<'_>) -> Box<[Box<str>]> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.map_or(&[][..], |extension| &extension.value.general_names);
    names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
            GeneralName::URI(name) | GeneralName::RFC822Name(name) => Some((*name).into()),
            _ => None,
        })
        .collect()
}

/// The name in the form of RFC 4514, in visible ASCII only, because it goes into headers and logs.
fn subject(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        if !text.is_empty() {
            text.push(',');
        }
        for (position, attribute) in part.iter().enumerate() {
            if position > 0 {
                text.push('+');
            }
            match oid2abbrev(attribute.attr_type(), oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
            }
            text.push('=');
            escape(&mut text, attribute.as_str().unwrap_or_default());
        }
    }
    text
}

/// Appends an attribute value, escaped as in RFC 4514 section 2.4: a value cannot look like two
/// attributes, however it is chosen.
fn escape(text: &mut String, value: &str) {
    for (position, c) in value.char_indices() {
        let at_an_end = position == 0 || position + c.len_utf8() == value.len();
        match c {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            ' ' if at_an_end => text.push_str("\\ "),
            '#' if position == 0 => text.push_str("\\#"),
            ' '..='~' => text.push(c),
            _ => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(text, "\\{byte:02X}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        ClientCertificate::parse(&[params.self_signed(&key).unwrap().der()]).unwrap()
    }

    #[test]
    fn a_subject_begins_with_its_most_specific_part() {
        let read = certificate(&[
            (DnType::OrganizationName, "Example"),
            (DnType::CommonName, "alice"),
        ]);
        assert_eq!(&*read.subject, "CN=alice,O=Example");
        assert_eq!(read.fingerprint.len(), 64);
        assert!(!read.has_expired(SystemTime::now()));
        let value = format!("Hash={};Subject=\"CN=alice,O=Example\"", read.fingerprint);
        assert_eq!(read.header().unwrap(), value.as_str());
    }

    #[test]
    fn a_value_cannot_forge_further_attributes() {
        for (value, expected) in [
            ("alice,O=Example", "CN=alice\\,O=Example"),
            ("a+b", "CN=a\\+b"),
            ("x\";Hash=0", "CN=x\\\"\\;Hash=0"),
            ("a\r\nX-Admin: 1", "CN=a\\0D\\0AX-Admin: 1"),
            ("#1 ", "CN=\\#1\\ "),
            ("é", "CN=\\C3\\A9"),
            ("back\\slash", "CN=back\\\\slash"),
        ] {
            let read = certificate(&[(DnType::CommonName, value)]);
            assert_eq!(&*read.subject, expected);
            assert!(read.header().is_some());
        }
        assert_eq!(ClientCertificate::parse(&[b"no certificate"]), None);
    }
}
