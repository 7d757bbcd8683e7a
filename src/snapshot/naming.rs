//! How the requests of a route name the endpoint that they go to, as running.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::endpoint_map::{self, MapError};
use crate::config::input_file::Contents;
use crate::config::model::{EndpointMap, NameSource, NamingConfig, RequestKey};
use crate::protocol::endpoint_cookie::EndpointCookie;
use crate::protocol::request_key::KeyTraits;

/// How requests name the endpoint that they go to.
#[derive(Debug)]
pub struct EndpointNaming {
    /// Whether a request that names no endpoint of the route is balanced like any other.
    pub falls_back: bool,
    reader: NameReader,
}

/// What reads a name from a request.
#[derive(Debug)]
enum NameReader {
    Cookie(EndpointCookie),
    Map(MapReader),
}

/// The map of a file, which changes while the configuration is in effect.
#[derive(Debug)]
struct MapReader {
    key: RequestKey,
    file: PathBuf,
    map: ArcSwap<EndpointMap>,
}

impl EndpointNaming {
    /// As configured.
    pub(super) fn new(config: &NamingConfig) -> Self {
        Self {
            falls_back: config.falls_back,
            reader: match &config.source {
                NameSource::SignedCookie { cookie, secret } => {
                    NameReader::Cookie(EndpointCookie::new(cookie, secret.bytes()))
                }
                NameSource::Map { key, file, map } => NameReader::Map(MapReader {
                    key: key.clone(),
                    file: file.clone(),
                    map: ArcSwap::new(Arc::clone(map)),
                }),
            },
        }
    }

    /// The name in a request at `now`, in seconds since 1970. Whether an endpoint has it is not known here.
    pub fn name(&self, traits: KeyTraits<'_>, now: u64) -> Option<Arc<str>> {
        match &self.reader {
            NameReader::Cookie(cookie) => cookie.endpoint(traits.headers, now).map(Into::into),
            NameReader::Map(reader) => {
                let key = traits.value(&reader.key)?;
                reader.map.load().get(&key).cloned()
            }
        }
    }

    /// The file whose map it uses.
    pub fn file(&self) -> Option<&Path> {
        match &self.reader {
            NameReader::Map(reader) => Some(&reader.file),
            NameReader::Cookie(_) => None,
        }
    }

    /// Applies the contents of its file, and returns the number of keys. If they have errors, the present map stays.
    ///
    /// # Errors
    /// [`MapError`].
    pub fn apply(&self, contents: &Contents) -> Result<usize, MapError> {
        let NameReader::Map(reader) = &self.reader else {
            return Ok(0);
        };
        let map = endpoint_map::from_contents(contents, &reader.key)?;
        let keys = map.len();
        reader.map.store(Arc::new(map));
        Ok(keys)
    }

    /// The number of keys in its map.
    pub fn keys(&self) -> usize {
        match &self.reader {
            NameReader::Map(reader) => reader.map.load().len(),
            NameReader::Cookie(_) => 0,
        }
    }
}

/// In words: what names the endpoint.
impl fmt::Display for EndpointNaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reader {
            NameReader::Cookie(cookie) => write!(f, "its signed cookie `{}`", cookie.name()),
            NameReader::Map(reader) => {
                write!(f, "its key in `{}`", reader.file.display())
            }
        }
    }
}
