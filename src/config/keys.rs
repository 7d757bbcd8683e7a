//! Every key of the file, declared once: its name, kind, default, example and documentation.
//!
//! Reading, the JSON schema, the reference and the check of the example follow these declarations. A
//! key stands in the table that it belongs to; the tables are in the files below.
//!
//! The documentation of a key is a tooltip in editors and a line of the reference. It has to stand
//! alone: a full sentence with a subject, the unit, and what happens otherwise.

mod acme;
mod admin;
mod auth;
mod bounds;
mod http2;
mod keepalive;
mod limit;
mod listener;
mod request_key;
mod route;
mod server;
mod store;
mod traces;
mod upstream;

pub(in crate::config) use self::bounds::grouped;

use std::time::Duration;

/// The whole file.
pub const ROOT: KeyTable = KeyTable {
    doc: "The configuration file of tidegate.",
    keys: &[
        key(
            "include",
            ValueKind::List(&ValueKind::File),
            "[]",
            "These files are read after this one, as if their listeners, routes and upstreams stood here. The name of a file may have wildcards (`*`, `?`, `[a-z]`); the files that match are sorted by name. The key stands above the first table; included files include no others.",
        )
        .shown(r#"include = ["conf.d/*.toml"]"#),
        table("server", &server::SERVER),
        table("admin", &admin::ADMIN),
        optional_table("traces", &traces::TRACES),
        optional_table("store", &store::STORE),
        optional_table("fleet", &store::FLEET),
        key(
            "acme",
            ValueKind::Map(&ValueKind::Table(&acme::ACME)),
            "",
            "Certificate authorities issue certificates that tidegate obtains and renews by itself. Certificates of listeners refer to an authority by its name.",
        ),
        key(
            "auth",
            ValueKind::Map(&ValueKind::Table(&auth::AUTH)),
            "",
            "Clients must prove who they are where a route refers to one of these by its name.",
        ),
        key(
            "limit",
            ValueKind::Map(&ValueKind::Table(&limit::LIMIT)),
            "",
            "Limits that routes share: requests of all routes that name a limit in `limits.shared` count together. Logs and metrics refer to a limit by its name.",
        ),
        key(
            "listener",
            ValueKind::Map(&ValueKind::Table(&listener::LISTENER)),
            "",
            "Listeners accept client connections. Routes, logs and metrics refer to a listener by its name.",
        ),
        key(
            "route",
            ValueKind::List(&ValueKind::Table(&route::ROUTE)),
            "",
            "Routes send requests to upstreams. The most specific route wins; among equally specific routes, the first in the file wins.",
        ),
        key(
            "upstream",
            ValueKind::Map(&ValueKind::Table(&upstream::UPSTREAM)),
            "",
            "Upstreams are groups of endpoints (backends). Routes, logs and metrics refer to an upstream by its name.",
        ),
    ],
};

/// The keys of the whole file that included files may have as well.
pub(in crate::config) const INCLUDABLE: [&str; 3] = ["listener", "route", "upstream"];

/// A table of keys.
#[derive(Debug)]
pub struct KeyTable {
    /// The documentation of the table, in one line.
    pub doc: &'static str,
    /// The keys, in the order of the documentation.
    pub keys: &'static [ConfigKey],
}

/// A key.
#[derive(Debug)]
pub struct ConfigKey {
    /// The name, as it is written in the file.
    pub name: &'static str,
    /// The kind of values that the key takes.
    pub kind: ValueKind,
    /// The default in TOML; empty where leaving the key out is a value of its own.
    pub default: &'static str,
    /// The documentation of the key, in one line.
    pub doc: &'static str,
    /// Lines of the key's table that show it at work; empty where the default does.
    example: &'static str,
    /// What to write instead of a zero, if neither `off` nor leaving the key out is the answer.
    instead_of_zero: &'static str,
    /// Whether the table makes no sense without the key.
    pub required: bool,
    /// The name of the key in the release before, which is accepted with a warning; empty if it is the same.
    pub former_name: &'static str,
}

/// The kind of values that a key takes.
#[derive(Debug)]
pub enum ValueKind {
    /// `true` or `false`.
    Bool,
    /// A string.
    Text,
    /// A whole number within these bounds.
    Integer {
        /// The lowest value.
        min: i64,
        /// The highest value.
        max: i64,
    },
    /// A number within these bounds.
    Number {
        /// The lowest value.
        min: f64,
        /// The highest value.
        max: f64,
    },
    /// A duration such as `30s`, within these bounds.
    Duration {
        /// The shortest one: zero only where zero has a meaning.
        min: Duration,
        /// The longest one.
        max: Duration,
    },
    /// A size such as `64KiB`, within these bounds.
    Size {
        /// The lowest number of bytes: zero only where zero has a meaning.
        min: u64,
        /// The highest number of bytes.
        max: u64,
    },
    /// A rate such as `20/s`, above zero.
    Rate,
    /// An address to listen on.
    Bind,
    /// The address of an endpoint.
    Address,
    /// A host name or wildcard.
    Host,
    /// A path without a query.
    Path,
    /// An origin as browsers send it.
    Origin,
    /// An origin, or those of all hosts with one label more than this one.
    OriginPattern,
    /// An address or a network of them (CIDR).
    Net,
    /// An IP address.
    Ip,
    /// An IP address and a port.
    Socket,
    /// The name of a header that the file may decide about.
    Header,
    /// A method of plain requests.
    Method,
    /// A token (RFC 9110 section 5.6.2).
    Token,
    /// A string in which `${…}` stands for properties of the request.
    Template,
    /// The name of a file, relative to the configuration's folder.
    File,
    /// Octal permission bits.
    Mode,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of values of this kind.
    List(&'static Self),
    /// Names that the file chooses, each with a value of this kind.
    Map(&'static Self),
    /// Strings that the file chooses, each with a value of this kind.
    Pairs(&'static Self),
    /// A table of declared keys.
    Table(&'static KeyTable),
    /// A value of any of these kinds.
    AnyOf(&'static [Self]),
}

impl KeyTable {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static ConfigKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The key that had this name in the release before.
    pub fn renamed(&self, name: &str) -> Option<&'static ConfigKey> {
        let mut renamed = self.keys.iter().filter(|key| !key.former_name.is_empty());
        renamed.find(|key| key.former_name == name)
    }

    /// The key whose value may stand for the whole table: a limit on a rate may be written as that rate.
    pub fn lone_key(&self) -> Option<&'static ConfigKey> {
        self.key("rate").filter(|key| key.required)
    }
}

impl ValueKind {
    /// Whether a value of this kind may be written as a string.
    pub fn takes_text(&self) -> bool {
        match self {
            Self::AnyOf(kinds) => kinds.iter().any(Self::takes_text),
            Self::List(kind) => kind.takes_text(),
            Self::Table(declared) => declared.lone_key().is_some(),
            Self::Bool
            | Self::Integer { .. }
            | Self::Number { .. }
            | Self::Map(_)
            | Self::Pairs(_) => false,
            _ => true,
        }
    }
}

impl ConfigKey {
    /// Lines of the key's table that show it at work; `None` for a table, whose own keys have examples.
    pub fn example(&self) -> Option<String> {
        match (self.example, self.default) {
            ("", "" | "{}") => None,
            ("", default) => Some(format!("{} = {default}", self.name)),
            (example, _) => Some(example.to_owned()),
        }
    }

    const fn shown(mut self, lines: &'static str) -> Self {
        self.example = lines;
        self
    }

    /// What to write instead of a zero.
    const fn instead_of_zero(mut self, hint: &'static str) -> Self {
        self.instead_of_zero = hint;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    /// The name of the key in the release before: it is accepted, with a warning, until the next minor version.
    #[cfg_attr(not(test), expect(dead_code, reason = "no key has another name now"))]
    pub(in crate::config) const fn renamed_from(mut self, former_name: &'static str) -> Self {
        self.former_name = former_name;
        self
    }
}

pub(in crate::config) const fn key(
    name: &'static str,
    kind: ValueKind,
    default: &'static str,
    doc: &'static str,
) -> ConfigKey {
    ConfigKey {
        name,
        kind,
        default,
        doc,
        example: "",
        instead_of_zero: "",
        required: false,
        former_name: "",
    }
}

/// A table that has all the defaults if it is left out.
const fn table(name: &'static str, declared: &'static KeyTable) -> ConfigKey {
    key(name, ValueKind::Table(declared), "{}", declared.doc)
}

/// A table that turns something on; leaving it out is a value of its own.
const fn optional_table(name: &'static str, declared: &'static KeyTable) -> ConfigKey {
    key(name, ValueKind::Table(declared), "", declared.doc)
}

/// A hundred years: adding it to any time does not overflow.
const MAX_DURATION: Duration = Duration::from_secs(36_525 * 86_400);

/// A duration. A zero has no meaning here, and less than a millisecond is as good as zero.
const DURATION: ValueKind = ValueKind::Duration {
    min: Duration::from_millis(1),
    max: MAX_DURATION,
};

/// A duration that may be zero. The documentation of the key says what zero means.
const DURATION_OR_ZERO: ValueKind = ValueKind::Duration {
    min: Duration::ZERO,
    max: MAX_DURATION,
};

/// A duration, or none at all.
const DURATION_OR_OFF: ValueKind = ValueKind::AnyOf(&[DURATION, ValueKind::OneOf(&["off"])]);

/// A share relative to others. The documentation of the key says what zero means.
const WEIGHT: ValueKind = ValueKind::Integer {
    min: 0,
    max: 10_000,
};

/// A number of bytes, at least 1.
const SIZE: ValueKind = ValueKind::Size {
    min: 1,
    max: u64::MAX,
};

/// A number of things, at least 1. A billion is more than anything here can have, and fits every counter.
const COUNT: ValueKind = ValueKind::Integer {
    min: 1,
    max: 1_000_000_000,
};

const NAMES: ValueKind = ValueKind::List(&ValueKind::Text);

const NETS: ValueKind = ValueKind::List(&ValueKind::Net);

/// A fraction of something.
const FRACTION: ValueKind = ValueKind::Number { min: 0.0, max: 1.0 };

/// The keys of a table that limits how often something happens.
const RATE_AND_BURST: [ConfigKey; 2] = [
    key(
        "rate",
        ValueKind::Rate,
        "",
        "This rate is allowed in the long run, for example `20/s` or `100/m`.",
    )
    .shown(r#"rate = "20/s""#)
    .instead_of_zero("for no limit, leave the table out")
    .required(),
    key(
        "burst",
        COUNT,
        "1",
        "A burst of this many at once is allowed before the rate applies.",
    )
    .shown(
        r#"rate = "20/s"
burst = 40"#,
    ),
];

/// The name server of a lookup.
const NAME_SERVER: &str = "Lookups go to this name server; without this key, to the name servers of the operating system.";

impl ValueKind {
    /// The values that are expected, as messages put it.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "`true` or `false`".into(),
            Self::Text => "a string".into(),
            Self::Integer { min, max } => {
                format!("a whole number from {min} to {}", grouped(*max))
            }
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Duration { .. } => "a duration such as `\"30s\"`".into(),
            Self::Size { .. } => "a size such as `\"64KiB\"`".into(),
            Self::Rate => "a rate such as `\"20/s\"`".into(),
            Self::Bind => "a listen address such as `\"0.0.0.0:443\"`".into(),
            Self::Address => "an address such as `\"10.0.0.1:9000\"`".into(),
            Self::Host => "a host such as `\"chat.example.com\"`".into(),
            Self::Path => "a path such as `\"/chat\"`".into(),
            Self::Origin | Self::OriginPattern => {
                "an origin such as `\"https://chat.example.com\"`".into()
            }
            Self::Net => "an address or network such as `\"10.0.0.0/8\"`".into(),
            Self::Ip => "an IP address such as `\"10.0.0.2\"`".into(),
            Self::Socket => "an IP address and port such as `\"127.0.0.1:53\"`".into(),
            Self::Header => "a header name such as `\"x-tenant\"`".into(),
            Self::Method => "a method such as `\"GET\"`".into(),
            Self::Token => "a token such as `\"graphql-ws\"`".into(),
            Self::Template => {
                "a string, which may contain variables such as `${client_address}`".into()
            }
            Self::File => "a file name".into(),
            Self::Mode => "permission bits such as `\"0660\"`".into(),
            Self::OneOf(names) => {
                let mut quoted: Vec<String> =
                    names.iter().map(|name| format!("`\"{name}\"`")).collect();
                let last = quoted.pop().unwrap_or_default();
                if quoted.is_empty() {
                    last
                } else {
                    format!("{} or {last}", quoted.join(", "))
                }
            }
            Self::List(kind) => format!("a list, each item of which is {}", kind.expected()),
            Self::Table(declared) => match declared.lone_key() {
                Some(key) => format!("{}, or a table", key.kind.expected()),
                None => "a table".into(),
            },
            Self::Map(_) | Self::Pairs(_) => "a table".into(),
            Self::AnyOf(kinds) => kinds
                .iter()
                .map(Self::expected)
                .collect::<Vec<_>>()
                .join(", or "),
        }
    }
}
