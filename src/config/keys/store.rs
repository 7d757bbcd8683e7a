//! `[store]` and `[fleet]`.

use super::{KeyTable, NETS, ValueKind, key, optional_table};

pub(super) const STORE: KeyTable = KeyTable {
    doc: "Nodes share what `fleet.share` lists through this store: either etcd or a folder.",
    keys: &[
        optional_table("etcd", &ETCD),
        key(
            "files",
            ValueKind::File,
            "",
            "Nodes share keys and certificates in this folder, which all of them mount. It excludes `etcd`.",
        )
        .shown(
            r#"files = "/var/lib/tidegate/fleet"
secret_file = "fleet.key""#,
        ),
        key(
            "secret_file",
            ValueKind::File,
            "",
            "Keys and certificates are sealed with the secret in this file, so that reading the store does not reveal them. It has at least 32 bytes, and all nodes have the same. If there are two, one in each line, the first one seals, and both open. Without this key, neither can be shared.",
        )
        .shown(
            r#"files = "/var/lib/tidegate/fleet"
secret_file = "fleet.key""#,
        ),
    ],
};

const ETCD: KeyTable = KeyTable {
    doc: "Nodes share through an etcd cluster. tidegate uses the JSON gateway of etcd 3.4 or later, which is on the same port as its gRPC.",
    keys: &[
        key(
            "endpoints",
            ValueKind::List(&ValueKind::Text),
            "",
            "These are the `https` or `http` URLs of the etcd members. tidegate asks one of them, and another one when that fails.",
        )
        .shown(r#"endpoints = ["http://127.0.0.1:2379"]"#)
        .required(),
        key(
            "prefix",
            ValueKind::Text,
            "\"/tidegate/\"",
            "All keys in etcd begin with this prefix, which begins and ends with `/`. Fleets that use the same etcd have different ones.",
        )
        .shown(r#"endpoints = ["http://127.0.0.1:2379"]
prefix = "/tidegate/prod/""#),
        key(
            "user",
            ValueKind::Text,
            "",
            "tidegate authenticates to etcd as this user. It requires `password_file`.",
        )
        .shown(
            r#"user = "tidegate"
password_file = "etcd.password""#,
        ),
        key(
            "password_file",
            ValueKind::File,
            "",
            "This file contains the password of `user`. A new password in it is applied automatically.",
        )
        .shown(
            r#"user = "tidegate"
password_file = "etcd.password""#,
        ),
        optional_table("tls", &ETCD_TLS),
    ],
};

const ETCD_TLS: KeyTable = KeyTable {
    doc: "These settings control TLS to etcd members with an `https` URL; without this table, the CA certificates of the operating system are trusted.",
    keys: &[
        key(
            "ca",
            ValueKind::File,
            "",
            "The certificate of an etcd member must be issued by one of the CA certificates in this PEM file; without this key, by one that the operating system trusts.",
        )
        .shown(
            r#"ca = "internal.pem""#,
        ),
        key(
            "client_cert",
            ValueKind::File,
            "",
            "tidegate presents the certificate in this PEM file to etcd. It requires `client_key`.",
        )
        .shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
        key(
            "client_key",
            ValueKind::File,
            "",
            "This PEM file contains the private key of `client_cert`.",
        )
        .shown(
            r#"client_cert = "tidegate.pem"
client_key = "tidegate.key""#,
        ),
    ],
};

pub(super) const FLEET: KeyTable = KeyTable {
    doc: "This node is one of a fleet, whose nodes share what `share` lists through `[store]`.",
    keys: &[
        key(
            "node",
            ValueKind::Text,
            "",
            "This is the name of the node in the fleet: letters, digits, `.`, `_` and `-`. A node whose name another one has does not start. Without this key, it is the host name.",
        )
        .shown(r#"node = "edge-1""#),
        key(
            "share",
            ValueKind::List(&ValueKind::OneOf(&["members", "certificates", "keys"])),
            "[]",
            "The nodes share these: `members` is the list of nodes, for commands with `--fleet`; `certificates` are those that tidegate obtains; `keys` are those of TLS sessions and sticky cookies that no file has.",
        )
        .shown(r#"share = ["members"]"#),
        optional_table("admin", &FLEET_ADMIN),
    ],
};

const FLEET_ADMIN: KeyTable = KeyTable {
    doc: "Commands with `--fleet` go to the admin interfaces of all nodes, as these settings say.",
    keys: &[
        key(
            "url",
            ValueKind::Text,
            "",
            "The admin interface of this node has this URL for commands on other nodes: `https://HOST:PORT`. Without this key, it is the address in `admin.bind`, if other nodes can connect to that.",
        )
        .shown(r#"url = "https://edge-1.internal:9900""#),
        key(
            "names",
            ValueKind::List(&ValueKind::Host),
            "[]",
            "A command on this node sends a token to another node if the host of its URL is one of these, or matches one such as `*.edge.internal`.",
        )
        .shown(r#"names = ["*.edge.internal"]"#),
        key(
            "networks",
            NETS,
            "[]",
            "A command on this node sends a token to another node if the host of its URL is an address in one of these networks.",
        )
        .shown(r#"networks = ["10.0.0.0/24"]"#),
    ],
};
