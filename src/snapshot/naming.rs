//! How the requests of a route name the endpoint that they go to, as running.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::model::{EndpointMap, NameSource, NamingConfig, RequestKey, is_endpoint_name};
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
    Claim(Box<str>),
    Cookie(Box<EndpointCookie>),
    Map(MapReader),
}

/// The map of a file, which changes while the configuration is in effect.
#[derive(Debug)]
pub struct MapReader {
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
                NameSource::Claim(claim) => NameReader::Claim(claim.clone()),
                NameSource::SignedCookie { cookie, secret } => {
                    NameReader::Cookie(Box::new(EndpointCookie::new(cookie, secret.bytes())))
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
            NameReader::Claim(claim) => {
                let name = traits.claims?.text(claim)?;
                is_endpoint_name(&name).then(|| name.into())
            }
            NameReader::Cookie(cookie) => cookie.endpoint(traits.headers, now).map(Into::into),
            NameReader::Map(reader) => {
                let key = traits.value(&reader.key)?;
                reader.map.load().get(&key).cloned()
            }
        }
    }

    /// Its map, if it uses one.
    pub fn map(&self) -> Option<&MapReader> {
        match &self.reader {
            NameReader::Map(reader) => Some(reader),
            NameReader::Claim(_) | NameReader::Cookie(_) => None,
        }
    }
}

impl MapReader {
    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What the keys of the file are values of.
    pub fn key(&self) -> &RequestKey {
        &self.key
    }

    /// The map in effect.
    pub fn current(&self) -> Arc<EndpointMap> {
        self.map.load_full()
    }

    /// Puts another map of the file into effect.
    pub fn replace(&self, map: Arc<EndpointMap>) {
        self.map.store(map);
    }
}

/// In words: what names the endpoint.
impl fmt::Display for EndpointNaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reader {
            NameReader::Claim(claim) => write!(f, "its claim `{claim}`"),
            NameReader::Cookie(cookie) => write!(f, "its signed cookie `{}`", cookie.name()),
            NameReader::Map(reader) => {
                write!(f, "its key in `{}`", reader.file.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::claims::Claims;
    use crate::protocol::target::Target;

    /// The name in a request whose client has this claim `server`.
    fn name_by(source: NameSource, claim: &Value) -> Option<Arc<str>> {
        let config = NamingConfig {
            source,
            falls_back: false,
        };
        let parts = Request::get("/play").header("host", "a").body(());
        let parts = parts.unwrap().into_parts().0;
        let target = Target::of(&parts).unwrap();
        let Value::Object(claims) = json!({ "server": claim }) else {
            unreachable!("it is an object");
        };
        let claims = Claims::new(claims);
        let traits = KeyTraits {
            client: None,
            server_name: None,
            headers: &parts.headers,
            target: &target,
            claims: Some(&claims),
        };
        let naming = EndpointNaming::new(&config);
        let nobody = KeyTraits {
            claims: None,
            ..traits
        };
        assert_eq!(naming.name(nobody, 0), None);
        naming.name(traits, 0)
    }

    #[test]
    fn a_claim_is_a_name_or_the_key_of_one() {
        let claim = || NameSource::Claim("server".into());
        assert_eq!(
            name_by(claim(), &json!("game-7")).as_deref(),
            Some("game-7")
        );
        assert_eq!(name_by(claim(), &json!(7)).as_deref(), Some("7"));
        for other in [
            json!(null),
            json!(""),
            json!("10.0.0.1:9000"),
            json!(["a", "b"]),
        ] {
            assert_eq!(name_by(claim(), &other), None, "{other}");
        }
        let mut map = EndpointMap::default();
        map.insert((*b"red").into(), "game-7".into());
        let map = Arc::new(map);
        let mapped = || NameSource::Map {
            key: RequestKey::Claim("server".into()),
            file: "rooms.map".into(),
            map: Arc::clone(&map),
        };
        assert_eq!(name_by(mapped(), &json!("red")).as_deref(), Some("game-7"));
        assert_eq!(name_by(mapped(), &json!("game-7")), None);
    }
}
