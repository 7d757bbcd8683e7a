//! Client certificates that have been revoked: they are verified at the beginning of a connection, which may
//! outlive the lists of that time, and so may its tunnel.

use std::collections::HashSet;

use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::certificate::{CertificateKey, ClientCertificate};

/// The certificates in revocation lists.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RevokedCertificates(HashSet<CertificateKey>);

impl RevokedCertificates {
    /// Those in these lists. Of several lists of an issuer the first counts, as for verification.
    pub fn of(lists: &[impl AsRef<[u8]>]) -> Self {
        let mut revoked = HashSet::new();
        let mut issuers = HashSet::new();
        for list in lists {
            // The configuration has only lists that can be read.
            let Ok((_, list)) = CertificateRevocationList::from_der(list.as_ref()) else {
                continue;
            };
            let issuer = list.issuer().as_raw();
            // A list may be about a part of the issuer's certificates: then there are others for the rest.
            let scope = list.extensions().iter();
            let scope = scope.filter(|it| it.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
            let scope: Vec<u8> = scope.flat_map(|it| it.value).copied().collect();
            if issuers.insert((issuer.to_vec(), scope)) {
                let serials = list.iter_revoked_certificates();
                revoked.extend(serials.map(|it| CertificateKey::of(issuer, it.raw_serial())));
            }
        }
        Self(revoked)
    }

    /// Whether the certificate, or one that it depends on, is among them.
    pub fn contain(&self, certificate: &ClientCertificate) -> bool {
        self.contain_any(certificate.chain())
    }

    /// Whether one of these certificates is among them.
    pub fn contain_any(&self, keys: &[CertificateKey]) -> bool {
        !self.0.is_empty() && keys.iter().any(|key| self.0.contains(key))
    }

    /// Whether there are some that were not revoked `before`.
    pub fn exceed(&self, before: &Self) -> bool {
        !self.0.is_subset(&before.0)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
        date_time_ymd,
    };

    use super::*;

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn issuer(name: &str) -> Issuer {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyCertSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn issued(issuer: &Issuer, serial: &[u8]) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        ClientCertificate::parse(&[certificate.der()]).unwrap()
    }

    fn list(issuer: &Issuer, serials: &[&[u8]]) -> Vec<u8> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(issuer).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_is_known_by_its_issuer_and_its_serial_number() {
        let [one, other] = ["one", "other"].map(issuer);
        let revoked = RevokedCertificates::of(&[
            list(&one, &[&[7], &[0x80, 1]]),
            list(&other, &[&[9]]),
            // Not the newest one.
            list(&one, &[&[8]]),
        ]);
        for (issuer, serial, is_revoked) in [
            (&one, &[7][..], true),
            (&one, &[0x80, 1], true),
            (&one, &[8], false),
            (&one, &[9], false),
            (&other, &[9], true),
            (&other, &[7], false),
        ] {
            let certificate = issued(issuer, serial);
            assert_eq!(revoked.contain(&certificate), is_revoked, "{serial:?}");
        }
    }
}
