//! Files that map keys of requests, such as the name of a room, to names of endpoints.
//!
//! A line has a key and a name. A file without any line is an error: that is how a file looks that is just being
//! written. A comment makes it an empty map.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::input_file::Contents;
use super::model::{EndpointMap, RequestKey, normal_path};
use super::value;

/// The maximum size of a file, in bytes.
pub const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// The maximum number of keys in a file.
pub const MAX_KEYS: usize = 262_144;

/// The maximum number of wrong lines that are reported one by one.
const MAX_REPORTED: usize = 20;

/// An error of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    /// The file is too long to be a map.
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLong,
    /// The file has too many keys.
    #[error("the file contains more than {MAX_KEYS} keys")]
    TooMany,
    /// The file has no lines.
    #[error("the file is empty; a map without keys has a comment")]
    Empty,
    /// Lines are not valid.
    #[error("{0}")]
    Lines(WrongLines),
}

/// The lines of a file that are not valid; at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrongLines {
    /// The first of them: the number of each, from 1, and its error.
    pub first: Vec<(usize, String)>,
    /// The number of further ones.
    pub more: usize,
}

impl WrongLines {
    fn push(&mut self, line: usize, message: String) {
        match self.first.len() < MAX_REPORTED {
            true => self.first.push((line, message)),
            false => self.more += 1,
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty()
    }
}

/// In one line: the first one, and how many there are in addition.
impl fmt::Display for WrongLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((line, message)) = self.first.first() else {
            return Ok(());
        };
        write!(f, "line {line}: {message}")?;
        match self.first.len() - 1 + self.more {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

/// The map in a file that was read, if it could be read. The keys are values of `key`.
///
/// # Errors
/// [`MapError`].
pub fn from_contents(contents: &Contents, key: &RequestKey) -> Result<EndpointMap, MapError> {
    match contents {
        Ok(bytes) => parse(bytes, key),
        Err(error) => Err(MapError::Unreadable(error.to_string())),
    }
}

/// The map in the content of a file. The keys are values of `key`.
///
/// # Errors
/// [`MapError`].
pub fn parse(bytes: &[u8], key: &RequestKey) -> Result<EndpointMap, MapError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(MapError::TooLong);
    }
    // Editors on Windows put a byte order mark there.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.trim_ascii().is_empty() {
        return Err(MapError::Empty);
    }
    let mut map = EndpointMap::default();
    let mut wrong = WrongLines::default();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let entry = match str::from_utf8(line) {
            Ok(line) => entry(line, key),
            Err(_) => Err("not valid UTF-8".to_owned()),
        };
        match entry {
            Ok(None) => {}
            Ok(Some((key, name))) => {
                if !map.insert(key, name) {
                    wrong.push(at + 1, "this key is listed twice".to_owned());
                }
            }
            Err(error) => wrong.push(at + 1, error),
        }
        if map.len() > MAX_KEYS {
            return Err(MapError::TooMany);
        }
    }
    match wrong.is_empty() {
        true => Ok(map),
        false => Err(MapError::Lines(wrong)),
    }
}

/// A key and the name that it has.
type Entry = (Box<[u8]>, Arc<str>);

/// The entry of a line; `None` if there is only a comment, or nothing.
fn entry(line: &str, of: &RequestKey) -> Result<Option<Entry>, String> {
    let words = line.split('#').next().unwrap_or_default();
    let mut words = words.split_ascii_whitespace();
    let Some(written) = words.next() else {
        return Ok(None);
    };
    let (Some(name), None) = (words.next(), words.next()) else {
        return Err("a line has a key and the name of an endpoint".to_owned());
    };
    let name = value::endpoint_name(name)?;
    Ok(Some((key(written, of)?, name.into())))
}

/// A key as requests have it.
fn key(written: &str, of: &RequestKey) -> Result<Box<[u8]>, String> {
    match of {
        RequestKey::ClientIp => {
            let address: Result<IpAddr, _> = written.parse();
            match address.map(|address| address.to_canonical()) {
                Ok(IpAddr::V4(address)) => Ok(address.octets().into()),
                Ok(IpAddr::V6(address)) => Ok(address.octets().into()),
                Err(_) => Err(format!("`{written}` is not a valid IP address")),
            }
        }
        RequestKey::Path => {
            let path = value::path(written)?;
            let path = normal_path(&path).unwrap_or_default();
            Ok(path.as_bytes().into())
        }
        _ => unescaped(written).ok_or_else(|| {
            format!("`{written}` contains a `%` without two hexadecimal digits; `%25` stands for `%` itself")
        }),
    }
}

/// The bytes that a text with escapes such as `%20` stands for; `None` if one is not valid.
fn unescaped(text: &str) -> Option<Box<[u8]>> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|it| u8::try_from(it).ok())
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? * 16 + digit(rest.next()?)?,
            _ => byte,
        });
    }
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query() -> RequestKey {
        RequestKey::Query("room".into())
    }

    #[track_caller]
    fn check(text: &str, of: &RequestKey, expected: &[(&[u8], &str)]) {
        let map = parse(text.as_bytes(), of).unwrap();
        assert_eq!(map.len(), expected.len(), "{text:?}");
        for (key, name) in expected {
            assert_eq!(map.get(key).map(|name| &**name), Some(*name), "{text:?}");
        }
    }

    #[test]
    fn a_line_is_a_key_and_a_name() {
        let text = "# made by the matchmaker\n\n  red game-1\r\nblue\tgame-2 # full\n\
                    a%20b%23%25 game-1\n\u{e4} game-1\n";
        let expected: [(&[u8], &str); 4] = [
            (b"red", "game-1"),
            (b"blue", "game-2"),
            (b"a b#%", "game-1"),
            ("\u{e4}".as_bytes(), "game-1"),
        ];
        check(text, &query(), &expected);
        check("\u{feff}red game-1", &query(), &[(b"red", "game-1")]);
        check("# no room is open\n", &query(), &[]);
    }

    #[test]
    fn keys_are_compared_as_requests_have_them() {
        let path = "/rooms/%61%2fb game-1\n";
        check(path, &RequestKey::Path, &[(b"/rooms/a%2Fb", "game-1")]);
        let addresses = "10.0.0.1 game-1\n::ffff:10.0.0.2 game-2\n::1 game-3\n";
        let mut local = [0; 16];
        local[15] = 1;
        let expected: [(&[u8], &str); 3] = [
            (&[10, 0, 0, 1], "game-1"),
            (&[10, 0, 0, 2], "game-2"),
            (&local, "game-3"),
        ];
        check(addresses, &RequestKey::ClientIp, &expected);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, of, expected) in [
            ("", query(), "the file is empty"),
            (" \n\n", query(), "the file is empty"),
            ("red\n", query(), "line 1: a line has a key and the name"),
            (
                "red a b\n",
                query(),
                "line 1: a line has a key and the name",
            ),
            (
                "red 10.0.0.1:9000\n",
                query(),
                "line 1: `10.0.0.1:9000` is not a valid name of an endpoint",
            ),
            (
                "red a\nblue b\nred b",
                query(),
                "line 3: this key is listed twice",
            ),
            (
                "r%65d a\nred b",
                query(),
                "line 2: this key is listed twice",
            ),
            ("a%2 a", query(), "line 1: `a%2` contains a `%` without"),
            ("a%zz a", query(), "line 1: `a%zz` contains a `%` without"),
            (
                "?\n?\n\n?",
                query(),
                "line 1: a line has a key and the name of an endpoint, and 2 more",
            ),
            (
                "room a",
                RequestKey::Path,
                "line 1: `room` is not a valid path",
            ),
            (
                "room a",
                RequestKey::ClientIp,
                "line 1: `room` is not a valid IP address",
            ),
        ] {
            let error = parse(text.as_bytes(), &of).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let error = parse(b"red a\n\xff a\n", &query()).unwrap_err().to_string();
        assert_eq!(error, "line 2: not valid UTF-8");
        let wrong = "?\n".repeat(MAX_REPORTED + 3);
        let Err(MapError::Lines(lines)) = parse(wrong.as_bytes(), &query()) else {
            panic!("it has no valid line");
        };
        assert_eq!((lines.first.len(), lines.more), (MAX_REPORTED, 3));
        let long = vec![b'#'; usize::try_from(MAX_BYTES).unwrap() + 1];
        assert_eq!(parse(&long, &query()).unwrap_err(), MapError::TooLong);
        let many: String = (0..=MAX_KEYS).map(|n| format!("{n} a\n")).collect();
        assert_eq!(
            parse(many.as_bytes(), &query()).unwrap_err(),
            MapError::TooMany
        );
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(keys in prop::collection::hash_set(prop::collection::vec(any::<u8>(), 1..9), 1..20)) {
            let written = |key: &Vec<u8>| key.iter().map(|byte| format!("%{byte:02x}")).collect::<String>();
            let text: String = keys.iter().map(|key| written(key) + " game-1\n").collect();
            let map = parse(text.as_bytes(), &query()).unwrap();
            prop_assert_eq!(map.len(), keys.len());
            prop_assert!(keys.iter().all(|key| map.get(key).is_some()));
        }
    }
}
