//! `[acme.NAME]`.

use super::{DURATION_OR_ZERO, KeyTable, ValueKind, key, optional_table};

pub(super) const ACME: KeyTable = KeyTable {
    doc: "A certificate authority that issues certificates by ACME (RFC 8555), and the account with it.",
    keys: &[
        key(
            "directory",
            ValueKind::Text,
            "",
            "This authority issues the certificates: `letsencrypt`, `letsencrypt-staging`, `zerossl`, or the `https` URL of a directory.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true"#,
        )
        .required(),
        key(
            "ca",
            ValueKind::File,
            "",
            "The certificate of the authority's own server must be issued by one of the CA certificates in this PEM file; without this key, by one that the operating system trusts.",
        )
        .shown(
            r#"directory = "https://ca.internal/acme/directory"
terms_agreed = true
ca = "internal.pem""#,
        ),
        key(
            "email",
            ValueKind::Text,
            "",
            "The authority may write to this address, for example before it ends a service.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
email = "ops@example.com""#,
        ),
        key(
            "terms_agreed",
            ValueKind::Bool,
            "",
            "This must be `true`: an account requires that you agree to the authority's terms of service.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true"#,
        ),
        key(
            "profile",
            ValueKind::Text,
            "",
            "The authority issues certificates of this profile, for example `tlsserver` or `shortlived` of Let's Encrypt; without this key, of its default one.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
profile = "tlsserver""#,
        ),
        key(
            "challenges",
            ValueKind::List(&ValueKind::OneOf(&["tls-alpn-01", "http-01", "dns-01"])),
            r#"["tls-alpn-01", "http-01"]"#,
            "tidegate proves by the first of these challenges that a name is yours: `tls-alpn-01` needs port 443 of the name, `http-01` port 80, and `dns-01` either `dns_hook` or `dns_url`. Wildcards need `dns-01`.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
challenges = ["http-01"]"#,
        ),
        key(
            "dns_hook",
            ValueKind::List(&ValueKind::Text),
            "",
            "For `dns-01`, tidegate runs this program, without a shell, to publish and remove TXT records: with these arguments, then `present` or `cleanup`, the name and the value.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
challenges = ["dns-01"]
dns_hook = ["/usr/local/bin/dns-hook"]"#,
        ),
        key(
            "dns_url",
            ValueKind::Text,
            "",
            "For `dns-01`, tidegate asks this service to publish and remove TXT records, by `POST` to `/present` and `/cleanup` below this URL, as the `httpreq` provider of lego does.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
challenges = ["dns-01"]
dns_url = "https://dns.internal/acme""#,
        ),
        key(
            "dns_propagation",
            DURATION_OR_ZERO,
            "\"10s\"",
            "For `dns-01`, the authority looks for a record this long after it was published; with `0s`, at once.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
challenges = ["dns-01"]
dns_hook = ["/usr/local/bin/dns-hook"]
dns_propagation = "1m""#,
        ),
        optional_table("external_account", &EXTERNAL_ACCOUNT),
        key(
            "state",
            ValueKind::File,
            "\"/var/lib/tidegate/acme\"",
            "The account, keys and certificates are kept in this folder, which nodes may share: then one of them obtains a certificate, and all serve it.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
state = "/var/lib/tidegate/acme""#,
        ),
        key(
            "until_issued",
            ValueKind::OneOf(&["refuse", "self_signed"]),
            "\"refuse\"",
            "Until a certificate is issued, TLS handshakes for its names are refused; with `self_signed`, clients get a self-signed certificate, which they do not trust.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
until_issued = "self_signed""#,
        ),
        key(
            "key_type",
            ValueKind::OneOf(&["ecdsa-p256", "rsa-2048"]),
            "\"ecdsa-p256\"",
            "The private keys of the certificates are of this type. Every certificate has a key of its own.",
        )
        .shown(
            r#"directory = "letsencrypt"
terms_agreed = true
key_type = "rsa-2048""#,
        ),
    ],
};

const EXTERNAL_ACCOUNT: KeyTable = KeyTable {
    doc: "The ACME account is bound to this account with the authority. Some authorities, such as ZeroSSL, require it.",
    keys: &[
        key(
            "id",
            ValueKind::Text,
            "",
            "The authority has given the account this key identifier (EAB KID).",
        )
        .shown(
            r#"id = "kid-1"
key_file = "eab.key""#,
        )
        .required(),
        key(
            "key_file",
            ValueKind::File,
            "",
            "This file contains the key of the account (EAB HMAC key) in base64.",
        )
        .shown(
            r#"id = "kid-1"
key_file = "eab.key""#,
        )
        .required(),
    ],
};
