//! Files of endpoints, written by a template, a script or a controller.
//!
//! A file has one address per line, followed by a weight and other attributes, or it is a JSON array. An
//! empty file is an error: that is how a file looks that is just being written.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer};

use super::input_file::Contents;
use super::model::{Address, EndpointConfig, EndpointPhase};
use super::value;

/// The maximum size of a file, in bytes.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// The maximum number of endpoints in a file.
pub const MAX_ENDPOINTS: usize = 10_000;

/// The maximum weight, the same as in the configuration.
pub const MAX_WEIGHT: u32 = 10_000;

/// An error of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    /// The file is too long to be a list of endpoints.
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLong,
    /// The file has too many endpoints.
    #[error("the file contains more than {MAX_ENDPOINTS} endpoints")]
    TooMany,
    /// The file has no endpoints.
    #[error("the file contains no endpoint")]
    Empty,
    /// An endpoint is listed twice.
    #[error("`{0}` is listed twice")]
    Twice(Address),
    /// Two endpoints have the same name.
    #[error("the name `{0}` is used twice")]
    NameTwice(Box<str>),
    /// A line is not valid.
    #[error("line {line}: {message}{}", More(*.more))]
    Line {
        /// The number of the line, from 1.
        line: usize,
        /// The error.
        message: String,
        /// The number of further lines that are not valid.
        more: usize,
    },
}

struct More(usize);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// The endpoints in a file that was read, if it could be read.
///
/// # Errors
/// [`FileError`].
pub fn from_contents(contents: &Contents) -> Result<Vec<EndpointConfig>, FileError> {
    match contents {
        Ok(bytes) => parse(bytes),
        Err(error) => Err(FileError::Unreadable(error.to_string())),
    }
}

/// The endpoints in the content of a file.
///
/// # Errors
/// [`FileError`].
pub fn parse(bytes: &[u8]) -> Result<Vec<EndpointConfig>, FileError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        FileError::Line {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            message: "not valid UTF-8".into(),
            more: 0,
        }
    })?;
    // Editors on Windows put a byte order mark there.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let endpoints = match is_json(text) {
        true => from_json(text)?,
        false => from_lines(text)?,
    };
    match endpoints.len() {
        0 => Err(FileError::Empty),
        1..=MAX_ENDPOINTS => Ok(endpoints),
        _ => Err(FileError::TooMany),
    }
}

/// Whether a file is JSON. A line such as `[::1]:9000` begins with a bracket, too.
fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    let array = text.strip_prefix('[').map(str::trim_start);
    text.starts_with('{') || array.is_some_and(|rest| rest.starts_with(['"', '{', ']']))
}

/// The first of these errors, if there is one.
fn first_error(errors: Vec<(usize, String)>) -> Result<(), FileError> {
    let more = errors.len().saturating_sub(1);
    match errors.into_iter().next() {
        None => Ok(()),
        Some((line, message)) => Err(FileError::Line {
            line,
            message,
            more,
        }),
    }
}

fn from_lines(text: &str) -> Result<Vec<EndpointConfig>, FileError> {
    let mut endpoints = Vec::new();
    let mut seen = HashSet::new();
    let mut names = HashSet::new();
    let mut errors = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let attributes = line.split('#').next().unwrap_or_default();
        let mut words = attributes.split_whitespace();
        let Some(address) = words.next() else {
            continue;
        };
        match from_words(address, words) {
            Ok(endpoint) if !seen.insert(endpoint.address.clone()) => {
                errors.push((at + 1, format!("`{address}` is listed twice")));
            }
            Ok(EndpointConfig {
                name: Some(name), ..
            }) if !names.insert(name.clone()) => {
                errors.push((at + 1, format!("the name `{name}` is used twice")));
            }
            Ok(endpoint) => endpoints.push(endpoint),
            Err(message) => errors.push((at + 1, message)),
        }
    }
    first_error(errors)?;
    Ok(endpoints)
}

fn from_words<'a>(
    address: &str,
    words: impl Iterator<Item = &'a str>,
) -> Result<EndpointConfig, String> {
    let mut entry = EndpointEntry {
        address: address.to_owned(),
        ..EndpointEntry::default()
    };
    for (at, word) in words.enumerate() {
        let (key, number) = match word.split_once('=') {
            Some(pair) => pair,
            None if at == 0 && word.starts_with(|c: char| c.is_ascii_digit()) => ("weight", word),
            None => (word, ""),
        };
        let attribute: &mut Option<u64> = match (key, number) {
            ("name", _) => {
                if entry.name.replace(number.to_owned()).is_some() {
                    return Err(format!("`{word}` sets `name` a second time"));
                }
                continue;
            }
            ("backup", "") => {
                entry.backup = true;
                continue;
            }
            ("drain", "") => {
                entry.drain = true;
                continue;
            }
            ("weight", _) => &mut entry.weight,
            ("max_tunnels", _) => &mut entry.max_tunnels,
            _ => {
                return Err(format!(
                    "`{word}` is not a valid attribute; use a weight, `max_tunnels=1000`, `name=game-7`, `backup` or `drain`"
                ));
            }
        };
        let number = number.parse();
        let number = number.map_err(|_| format!("`{word}` requires a whole number"))?;
        if attribute.replace(number).is_some() {
            return Err(format!("`{word}` sets `{key}` a second time"));
        }
    }
    entry.endpoint()
}

/// An endpoint with the same keys as in the configuration.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointEntry {
    address: String,
    name: Option<String>,
    weight: Option<u64>,
    max_tunnels: Option<u64>,
    #[serde(default)]
    backup: bool,
    #[serde(default)]
    drain: bool,
}

impl EndpointEntry {
    fn endpoint(self) -> Result<EndpointConfig, String> {
        let weight = u32::try_from(self.weight.unwrap_or(1)).ok();
        let weight = weight
            .filter(|weight| *weight <= MAX_WEIGHT)
            .ok_or_else(|| format!("a weight must not be greater than {MAX_WEIGHT}"))?;
        let max_tunnels = match self.max_tunnels.map(usize::try_from) {
            None => None,
            Some(Ok(max @ 1..)) => Some(max),
            Some(_) => return Err("`max_tunnels` must be at least 1".into()),
        };
        let name = self.name.as_deref().map(value::endpoint_name);
        Ok(EndpointConfig {
            address: value::address(&self.address)?,
            host: None,
            name: name.transpose()?,
            weight,
            max_tunnels,
            drain: self.drain,
            backup: self.backup,
            phase: EndpointPhase::Ready,
        })
    }
}

/// An item of a JSON array: an address, or an object.
struct ListedEndpoint(EndpointConfig);

fn from_json(text: &str) -> Result<Vec<EndpointConfig>, FileError> {
    let listed: Vec<ListedEndpoint> = serde_json::from_str(text).map_err(|error| {
        // The message ends with line and column, but our own message begins with the line.
        let message = error.to_string();
        let end = message.rfind(" at line ").unwrap_or(message.len());
        FileError::Line {
            line: error.line().max(1),
            message: message.get(..end).unwrap_or_default().to_owned(),
            more: 0,
        }
    })?;
    let endpoints: Vec<EndpointConfig> = listed.into_iter().map(|listed| listed.0).collect();
    let mut seen = HashSet::with_capacity(endpoints.len());
    if let Some(twice) = endpoints.iter().find(|each| !seen.insert(&each.address)) {
        return Err(FileError::Twice(twice.address.clone()));
    }
    let mut named = endpoints.iter().filter_map(|each| each.name.as_ref());
    let mut names = HashSet::new();
    match named.find(|name| !names.insert(*name)) {
        Some(twice) => Err(FileError::NameTwice(twice.clone())),
        None => Ok(endpoints),
    }
}

impl<'de> Deserialize<'de> for ListedEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ItemVisitor)
    }
}

/// Reads an address or an object.
struct ItemVisitor;

impl<'de> Visitor<'de> for ItemVisitor {
    type Value = ListedEndpoint;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or an object with `address`")
    }

    fn visit_str<E: de::Error>(self, address: &str) -> Result<ListedEndpoint, E> {
        let entry = EndpointEntry {
            address: address.to_owned(),
            ..EndpointEntry::default()
        };
        entry.endpoint().map(ListedEndpoint).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListedEndpoint, A::Error> {
        let entry = EndpointEntry::deserialize(MapAccessDeserializer::new(map))?;
        entry
            .endpoint()
            .map(ListedEndpoint)
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let endpoints = parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let shown = endpoints.iter().map(|each| {
            let mut line = format!("{} {}", each.address, each.weight);
            if let Some(name) = &each.name {
                line += &format!(" name={name}");
            }
            if let Some(most) = each.max_tunnels {
                line += &format!(" max_tunnels={most}");
            }
            line += if each.drain { " drain" } else { "" };
            line += if each.backup { " backup" } else { "" };
            line
        });
        Ok(shown.collect())
    }

    #[test]
    fn a_line_is_an_address_and_what_is_said_of_it() {
        let text = "# made by a template\n\
            10.0.0.1:9000\n\
            \n  [::1]:9000 3   # the big one\n\
            chat.internal:9000 max_tunnels=100 drain weight=0 name=chat-1 backup\n\
            unix:/run/chat.sock\n";
        assert_eq!(
            shown(text).unwrap(),
            [
                "10.0.0.1:9000 1",
                "[::1]:9000 3",
                "chat.internal:9000 0 name=chat-1 max_tunnels=100 drain backup",
                "unix:/run/chat.sock 1",
            ]
        );
        assert_eq!(shown("[::1]:9000\n").unwrap(), ["[::1]:9000 1"]);
        assert_eq!(shown("\u{feff}10.0.0.1:1\r\n").unwrap(), ["10.0.0.1:1 1"]);
    }

    #[test]
    fn an_array_holds_addresses_and_objects() {
        let text = r#" [ "10.0.0.1:9000",
            {"address": "10.0.0.2:9000", "name": "b", "weight": 2, "max_tunnels": 5, "drain": true} ]"#;
        assert_eq!(
            shown(text).unwrap(),
            [
                "10.0.0.1:9000 1",
                "10.0.0.2:9000 2 name=b max_tunnels=5 drain"
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            ("", "contains no endpoint"),
            ("# nothing yet\n", "contains no endpoint"),
            ("[]", "contains no endpoint"),
            (
                "10.0.0.1:1\nnonsense\n",
                "line 2: `nonsense` is not a valid address",
            ),
            ("10.0.0.1\n10.0.0.2\n", "and 1 more"),
            (
                "10.0.0.1:1 1000000",
                "line 1: a weight must not be greater than 10000",
            ),
            ("10.0.0.1:1 2x", "line 1: `2x` requires a whole number"),
            (
                "10.0.0.1:1 2 weight=3",
                "line 1: `weight=3` sets `weight` a second time",
            ),
            (
                "10.0.0.1:1 max_tunnels=0",
                "line 1: `max_tunnels` must be at least 1",
            ),
            ("10.0.0.1:1 fast", "line 1: `fast` is not a valid attribute"),
            ("10.0.0.1:1 2 3", "line 1: `3` is not a valid attribute"),
            (
                "10.0.0.1:1 backup=1",
                "line 1: `backup=1` is not a valid attribute",
            ),
            (
                "10.0.0.1:1\n10.0.0.1:1\n",
                "line 2: `10.0.0.1:1` is listed twice",
            ),
            (
                "10.0.0.1:1 name=a\n10.0.0.2:1 name=b\n10.0.0.3:1 name=a\n",
                "line 3: the name `a` is used twice",
            ),
            (
                "10.0.0.1:1 name=a name=b\n",
                "line 1: `name=b` sets `name` a second time",
            ),
            (
                "10.0.0.1:1 name=10.0.0.2:1\n",
                "line 1: `10.0.0.2:1` is not a valid name of an endpoint",
            ),
            (
                "10.0.0.1:1 name\n",
                "line 1: `` is not a valid name of an endpoint",
            ),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_in_json_is_said_with_its_line() {
        for (text, expected) in [
            (
                "[{\"address\": \"10.0.0.1:1\", \"name\": \"a\"},\n\
                 {\"address\": \"10.0.0.2:1\", \"name\": \"a\"}]",
                "the name `a` is used twice",
            ),
            (
                "[\"10.0.0.1:1\",\n\"x\"]",
                "line 2: `x` is not a valid address",
            ),
            (
                "[\"10.0.0.1:1\",\n7]",
                "line 2: invalid type: integer `7`, expected an address",
            ),
            (
                "[{\"address\": \"10.0.0.1:1\",\n\"wieght\": 2}]",
                "line 2: unknown field `wieght`",
            ),
            ("[{\"weight\": 2}]", "line 1: missing field `address`"),
            (
                "{\"endpoints\": []}",
                "line 1: invalid type: map, expected a sequence",
            ),
            (
                "[\"10.0.0.1:1\", \"10.0.0.1:1\"]",
                "`10.0.0.1:1` is listed twice",
            ),
            ("[\"10.0.0.1:1\"", "line 1: EOF"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_file_is_text_and_has_a_bound() {
        let error = parse(b"10.0.0.1:1\n\xff\n").unwrap_err().to_string();
        assert_eq!(error, "line 2: not valid UTF-8");
        let long = vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1];
        assert_eq!(parse(&long).unwrap_err(), FileError::TooLong);
        let many: String = (0..=MAX_ENDPOINTS).map(|n| format!("h{n}:1\n")).collect();
        assert_eq!(parse(many.as_bytes()).unwrap_err(), FileError::TooMany);
    }

    #[test]
    fn a_file_that_is_not_there_is_no_empty_list() {
        let missing = Err(std::io::Error::other("there is none"));
        let error = from_contents(&missing).unwrap_err();
        assert!(matches!(error, FileError::Unreadable(_)), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn nor_does_anything_that_looks_right(
            text in r#"([\[{]|[a-z0-9.:]{0,12}| |\n|"|,|\]|\}|weight|=|max_tunnels|#){0,30}"#,
        ) {
            if let Ok(endpoints) = parse(text.as_bytes()) {
                prop_assert!(!endpoints.is_empty());
            }
        }

        #[test]
        fn what_was_written_is_read(
            all in prop::collection::btree_map(any::<std::net::SocketAddr>(), 0..=MAX_WEIGHT, 1..20),
        ) {
            let all: Vec<_> = all.into_iter().filter(|(address, _)| address.port() != 0).collect();
            prop_assume!(!all.is_empty());
            let expected: Vec<String> =
                all.iter().map(|(address, weight)| format!("{address} {weight}")).collect();
            prop_assert_eq!(shown(&expected.join("\n")).unwrap(), &expected[..]);
            let objects: Vec<String> = all
                .iter()
                .map(|(address, weight)| {
                    format!(r#"{{"address": "{address}", "weight": {weight}}}"#)
                })
                .collect();
            prop_assert_eq!(shown(&format!("[{}]", objects.join(","))).unwrap(), &expected[..]);
        }
    }
}
