//! Every key of the file, declared once: name, kind, default, one line of what it is.
//!
//! Reading, the JSON schema and the check of the example all follow these declarations. A key
//! stands in the table that it belongs to; the tables are in the files below.

mod admin;
mod listener;
mod route;
mod server;
mod upstream;

/// The whole file.
pub const ROOT: KeyTable = KeyTable {
    doc: "A configuration of tidegate.",
    keys: &[
        key(
            "server",
            ValueKind::Table(&server::SERVER),
            "{}",
            "Process-wide settings.",
        ),
        key(
            "admin",
            ValueKind::Table(&admin::ADMIN),
            "{}",
            "Where operators connect.",
        ),
        key(
            "listener",
            ValueKind::Map(&ValueKind::Table(&listener::LISTENER)),
            "",
            "Listeners by name.",
        ),
        key(
            "route",
            ValueKind::List(&ValueKind::Table(&route::ROUTE)),
            "",
            "Routes.",
        ),
        key(
            "upstream",
            ValueKind::Map(&ValueKind::Table(&upstream::UPSTREAM)),
            "",
            "Upstreams by name.",
        ),
    ],
};

/// A table of keys.
#[derive(Debug)]
pub struct KeyTable {
    /// What it is about, in one line.
    pub doc: &'static str,
    /// Its keys, in the order that they are documented in.
    pub keys: &'static [ConfigKey],
}

/// A key.
#[derive(Debug)]
pub struct ConfigKey {
    /// As it is written.
    pub name: &'static str,
    /// What values it takes.
    pub kind: ValueKind,
    /// As it would be written; empty where leaving the key out is a value of its own.
    pub default: &'static str,
    /// What it is, in one line.
    pub doc: &'static str,
    /// Lines of its table that show it at work; empty where the default does.
    example: &'static str,
    /// Whether its table makes no sense without it.
    pub required: bool,
    /// Whether it does something in this version.
    pub status: KeyStatus,
}

/// Whether a key does something in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// It does.
    InEffect,
    /// Not yet; it warns.
    Later,
}

/// What values a key takes.
#[derive(Debug)]
pub enum ValueKind {
    /// `true` or `false`.
    Bool,
    /// A string.
    Text,
    /// A whole number within these bounds.
    Integer {
        /// The lowest value.
        least: i64,
        /// The highest value.
        most: i64,
    },
    /// A number within these bounds.
    Number {
        /// The lowest value.
        least: f64,
        /// The highest value.
        most: f64,
    },
    /// A duration such as `30s`.
    Duration,
    /// A size such as `64KiB`.
    Size,
    /// A rate such as `20/s`.
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
    /// An address or a network of them (CIDR).
    Net,
    /// An IP address.
    Ip,
    /// An IP address and a port.
    Socket,
    /// A name of a header field that the file may decide about.
    Header,
    /// A method of plain requests.
    Method,
    /// A token (RFC 9110 section 5.6.2).
    Token,
    /// A text with `${…}` for what is known of a request.
    Template,
    /// The name of a file, relative to the configuration's folder.
    File,
    /// Octal permission bits.
    Mode,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of these values.
    List(&'static Self),
    /// Names that the file chooses, each with such a value.
    Map(&'static Self),
    /// Texts that the file gives values to.
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
}

impl ConfigKey {
    /// Lines of its table that show it at work; `None` for a table, whose own keys do.
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

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn later(mut self) -> Self {
        self.status = KeyStatus::Later;
        self
    }
}

const fn key(
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
        required: false,
        status: KeyStatus::InEffect,
    }
}

/// A duration, or none at all.
const DURATION_OR_OFF: ValueKind =
    ValueKind::AnyOf(&[ValueKind::Duration, ValueKind::OneOf(&["off"])]);

/// Anything that can be counted.
const COUNT: ValueKind = ValueKind::Integer {
    least: 1,
    most: i64::MAX,
};

const NAMES: ValueKind = ValueKind::List(&ValueKind::Text);

const NETS: ValueKind = ValueKind::List(&ValueKind::Net);

impl ValueKind {
    /// What is expected, for a person.
    pub fn expected(&self) -> String {
        match self {
            Self::Bool => "`true` or `false`".into(),
            Self::Text => "a string".into(),
            Self::Integer {
                least,
                most: i64::MAX,
            } => format!("a whole number from {least}"),
            Self::Integer { least, most } => format!("a whole number from {least} to {most}"),
            Self::Number { least, most } => format!("a number from {least} to {most}"),
            Self::Duration => "a duration such as `\"30s\"`".into(),
            Self::Size => "a size such as `\"64KiB\"`".into(),
            Self::Rate => "a rate such as `\"20/s\"`".into(),
            Self::Bind => "an address to listen on such as `\"0.0.0.0:443\"`".into(),
            Self::Address => "an address such as `\"10.0.0.1:9000\"`".into(),
            Self::Host => "a host such as `\"chat.example.com\"`".into(),
            Self::Path => "a path such as `\"/chat\"`".into(),
            Self::Origin => "an origin such as `\"https://chat.example.com\"`".into(),
            Self::Net => "an address or network such as `\"10.0.0.0/8\"`".into(),
            Self::Ip => "an IP address such as `\"10.0.0.2\"`".into(),
            Self::Socket => "an IP address and port such as `\"127.0.0.1:53\"`".into(),
            Self::Header => "the name of a header such as `\"x-tenant\"`".into(),
            Self::Method => "a method such as `\"GET\"`".into(),
            Self::Token => "a token such as `\"graphql-ws\"`".into(),
            Self::Template => "a string, perhaps with `${client_address}`".into(),
            Self::File => "the name of a file".into(),
            Self::Mode => "a mode such as `\"0660\"`".into(),
            Self::OneOf(names) => names
                .iter()
                .map(|name| format!("`\"{name}\"`"))
                .collect::<Vec<_>>()
                .join(" or "),
            Self::List(kind) => format!("a list, each {}", kind.expected()),
            Self::Map(_) | Self::Pairs(_) | Self::Table(_) => "a table".into(),
            Self::AnyOf(kinds) => kinds
                .iter()
                .map(Self::expected)
                .collect::<Vec<_>>()
                .join(", or "),
        }
    }
}
