//! How a request names its endpoint.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{RequestKey, Secret};

/// How the requests of a route name the endpoint that they go to.
#[derive(Debug, Clone)]
pub struct NamingConfig {
    /// Where the name comes from.
    pub source: NameSource,
    /// Whether a request that names no endpoint of the route is balanced like any other, instead of rejected.
    pub falls_back: bool,
}

/// Where the name of an endpoint comes from. Clients can choose none of these freely.
#[derive(Debug, Clone)]
pub enum NameSource {
    /// A cookie that the application signs.
    SignedCookie {
        /// The name of the cookie, which is a token.
        cookie: Box<str>,
        /// The key of the signature.
        secret: Secret,
    },
    /// A claim of the identity that the route's `auth` has established.
    Claim(Box<str>),
    /// A file that gives keys of requests the names of endpoints.
    Map {
        /// The key of a request.
        key: RequestKey,
        /// The file.
        file: PathBuf,
        /// What the file says.
        map: Arc<EndpointMap>,
    },
}

impl NamingConfig {
    /// The claim that it depends on, if it does.
    pub fn claim(&self) -> Option<&str> {
        match &self.source {
            NameSource::Claim(claim)
            | NameSource::Map {
                key: RequestKey::Claim(claim),
                ..
            } => Some(claim),
            _ => None,
        }
    }
}

/// The names of endpoints, by the keys of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointMap(HashMap<Box<[u8]>, Arc<str>>);

impl EndpointMap {
    /// The name that this key has.
    pub fn get(&self, key: &[u8]) -> Option<&Arc<str>> {
        self.0.get(key)
    }

    /// Gives a key a name, if it has none; returns whether it had none.
    pub fn insert(&mut self, key: Box<[u8]>, name: Arc<str>) -> bool {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(name);
                true
            }
        }
    }

    /// The names, each as often as a key has it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|name| &**name)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
