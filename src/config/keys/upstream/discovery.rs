//! Sources of endpoints other than a list.

use super::super::{KeyTable, NAME_SERVER, ValueKind, key};

pub(super) const DNS: KeyTable = KeyTable {
    doc: "The endpoints are the addresses of a DNS name (A and AAAA records). This excludes the other sources of endpoints.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "The addresses of this DNS name are the endpoints.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000"#,
        )
        .required(),
        key(
            "port",
            ValueKind::Integer {
                min: 1,
                max: 65_535,
            },
            "",
            "Every endpoint listens on this port.",
        )
        .shown(
            r#"name = "chat.svc"
port = 9000"#,
        )
        .required(),
        key("server", ValueKind::Socket, "", NAME_SERVER).shown(
            r#"name = "chat.svc"
port = 9000
server = "127.0.0.1:8600""#,
        ),
    ],
};

pub(super) const SRV: KeyTable = KeyTable {
    doc: "The endpoints are the targets of DNS SRV records. This excludes the other sources of endpoints.",
    keys: &[
        key(
            "name",
            ValueKind::Text,
            "",
            "The targets of the SRV records of this name are the endpoints.",
        )
        .shown(r#"name = "_ws._tcp.chat.svc""#)
        .required(),
        key("server", ValueKind::Socket, "", NAME_SERVER).shown(
            r#"name = "_ws._tcp.chat.svc"
server = "127.0.0.1:8600""#,
        ),
    ],
};

const PORT_KINDS: &[ValueKind] = &[
    ValueKind::Integer {
        min: 1,
        max: 65_535,
    },
    ValueKind::Text,
];

pub(super) const KUBERNETES: KeyTable = KeyTable {
    doc: "The endpoints are those of a Kubernetes Service: tidegate watches its EndpointSlices. This excludes the other sources of endpoints.",
    keys: &[
        key(
            "service",
            ValueKind::Text,
            "",
            "The endpoints are the pods behind the Service of this name.",
        )
        .shown(
            r#"service = "chat"
port = "ws""#,
        )
        .required(),
        key(
            "port",
            ValueKind::AnyOf(PORT_KINDS),
            "",
            "The port of the endpoints: the name of a port of the Service, or the number of the port that its pods listen on.",
        )
        .shown(
            r#"service = "chat"
port = 9000"#,
        )
        .required(),
        key(
            "namespace",
            ValueKind::Text,
            "",
            "The namespace of the Service. By default, it is that of the pod that tidegate runs in.",
        )
        .shown(
            r#"service = "chat"
port = "ws"
namespace = "production""#,
        ),
        key(
            "api",
            ValueKind::Text,
            "",
            "The URL of the Kubernetes API server. By default, it is that of the cluster that tidegate runs in.",
        )
        .shown(
            r#"service = "chat"
port = "ws"
api = "https://10.0.0.5:6443""#,
        ),
        key(
            "token_file",
            ValueKind::File,
            "",
            "tidegate sends the bearer token in this file to the API server, and reads the file again every minute. By default, it is the token of the pod's service account; with `api`, there is none.",
        )
        .shown(
            r#"service = "chat"
port = "ws"
api = "https://10.0.0.5:6443"
token_file = "kubernetes.token""#,
        ),
        key(
            "ca",
            ValueKind::File,
            "",
            "The certificate of the API server must be issued by one of the CA certificates in this PEM file, which is read again when it changes. By default, they are those of the pod's service account; with `api`, those of the operating system.",
        )
        .shown(
            r#"service = "chat"
port = "ws"
api = "https://10.0.0.5:6443"
ca = "kubernetes.pem""#,
        ),
        key(
            "state",
            ValueKind::File,
            "",
            "The last known endpoints are kept in this folder, for a start at which the API server does not respond. By default, it is the folder that systemd provides (`StateDirectory=`); without one, they are not kept.",
        )
        .shown(
            r#"service = "chat"
port = "ws"
state = "/var/lib/tidegate""#,
        ),
    ],
};
