//! Endpoints that name servers know: addresses of a name (A, AAAA), and services (SRV).
//!
//! A [`Lookup`] asks; `answer` says what an answer comes to. Who asks when, and what becomes of it,
//! is `server`'s.

pub mod answer;
mod runtime;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use hickory_resolver::Resolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RData, RecordType};

use self::answer::{LookupAnswer, SrvRecord};
use self::runtime::CurrentRuntime;
use crate::config::model::{Discovery, EndpointConfig};

/// How long a name server may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is asked again where none comes.
const RETRIES: usize = 1;

/// How long one lookup may take in all: the names of a search list, the targets of services.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Targets of services that are looked up at once.
const CONCURRENT_TARGETS: usize = 16;

/// Why a lookup brought no endpoints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name server says that there are none.
    #[error("the name has no endpoints")]
    Nothing,
    /// No name server answered, or not with an answer.
    #[error("{0}")]
    Failed(String),
    /// It took too long in all.
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
}

/// What a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// At least one; sorted, each once.
    pub endpoints: Vec<EndpointConfig>,
    /// How long that holds.
    pub ttl: Duration,
}

/// The lookups of one upstream, one after the other.
#[derive(Debug)]
pub struct Lookup {
    discovery: Discovery,
    /// What hosts had for addresses when that was known last.
    hosts: BTreeMap<Box<str>, Vec<IpAddr>>,
}

impl Lookup {
    /// For what `discovery` says; where it names nobody to ask, nothing is ever found.
    pub fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            hosts: BTreeMap::new(),
        }
    }

    /// Asks now.
    ///
    /// # Errors
    /// [`LookupError`].
    pub async fn run(&mut self) -> Result<Discovered, LookupError> {
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.look_up()).await {
            Ok(found) => found,
            Err(_) => Err(LookupError::TooSlow(LOOKUP_TIMEOUT)),
        }
    }

    async fn look_up(&mut self) -> Result<Discovered, LookupError> {
        match self.discovery.clone() {
            Discovery::Dns { name, port, server } => {
                let servers = NameServers::new(server)?;
                let before = self.hosts.get(&name).map_or(&[][..], Vec::as_slice);
                let (addresses, ttl) = match servers.addresses(&name, before).await {
                    LookupAnswer::Records(addresses, ttl) => (addresses, ttl),
                    other => return Err(other.into()),
                };
                let endpoints = answer::of_host(&addresses, port);
                self.hosts.insert(name, addresses);
                Ok(Discovered { endpoints, ttl })
            }
            Discovery::Srv { name, server } => self.services(&name, server).await,
            Discovery::Listed | Discovery::File(_) => Err(LookupError::Nothing),
        }
    }

    async fn services(
        &mut self,
        name: &str,
        server: Option<SocketAddr>,
    ) -> Result<Discovered, LookupError> {
        let servers = NameServers::new(server)?;
        let (services, mut ttl) = match servers.services(name).await {
            LookupAnswer::Records(services, ttl) => (services, ttl),
            LookupAnswer::Nothing => return Err(LookupError::Nothing),
            LookupAnswer::Failed(why) => return Err(LookupError::Failed(why)),
        };
        let mut targets: Vec<Box<str>> = services.iter().map(|each| each.target.clone()).collect();
        targets.sort_unstable();
        targets.dedup();
        targets.truncate(answer::MAX_TARGETS);
        let hosts = &self.hosts;
        let answers: Vec<_> = stream::iter(targets)
            .map(|target| {
                let servers = &servers;
                async move {
                    let before = hosts.get(&target).map_or(&[][..], Vec::as_slice);
                    // A target is a whole name: no search list applies (RFC 2782).
                    let answer = servers.addresses(&format!("{target}."), before).await;
                    (target, answer)
                }
            })
            .buffer_unordered(CONCURRENT_TARGETS)
            .collect()
            .await;
        let mut hosts = BTreeMap::new();
        let mut failure = None;
        for (target, answer) in answers {
            let addresses = match answer {
                LookupAnswer::Records(addresses, until) => {
                    ttl = ttl.min(until);
                    addresses
                }
                LookupAnswer::Nothing => continue,
                LookupAnswer::Failed(why) => {
                    ttl = ttl.min(answer::MAX_RETRY_INTERVAL);
                    failure = Some(why);
                    self.hosts.remove(&target).unwrap_or_default()
                }
            };
            hosts.insert(target, addresses);
        }
        self.hosts = hosts;
        let endpoints = answer::of_services(&services, &self.hosts);
        if endpoints.is_empty() {
            return Err(failure.map_or(LookupError::Nothing, LookupError::Failed));
        }
        Ok(Discovered { endpoints, ttl })
    }
}

impl<T> From<LookupAnswer<T>> for LookupError {
    fn from(answer: LookupAnswer<T>) -> Self {
        match answer {
            LookupAnswer::Failed(why) => Self::Failed(why),
            LookupAnswer::Records(..) | LookupAnswer::Nothing => Self::Nothing,
        }
    }
}

/// Whom to ask.
struct NameServers {
    resolver: Resolver<CurrentRuntime>,
    /// One that was named in the configuration: what it says is all there is, and names are whole.
    given: bool,
}

impl NameServers {
    /// Made anew for each lookup: what the system's files say may have changed, and nothing is kept
    /// that is worth it.
    fn new(server: Option<SocketAddr>) -> Result<Self, LookupError> {
        let failed = |error: NetError| LookupError::Failed(text(&error));
        let provider = CurrentRuntime::default();
        let mut builder = match server {
            None => Resolver::builder(provider).map_err(failed)?,
            Some(server) => {
                let connection = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = vec![
                    connection(ConnectionConfig::udp()),
                    connection(ConnectionConfig::tcp()),
                ];
                let server = NameServerConfig::new(server.ip(), true, connections);
                let config = ResolverConfig::from_name_servers(vec![server]);
                Resolver::builder_with_config(config, provider)
            }
        };
        set(builder.options_mut(), server.is_some());
        Ok(Self {
            resolver: builder.build().map_err(failed)?,
            given: server.is_some(),
        })
    }

    async fn addresses(&self, name: &str, before: &[IpAddr]) -> LookupAnswer<IpAddr> {
        let whole = self.whole(name);
        let (v4, found_at) = self.records(&whole, RecordType::A, ip).await;
        // Where a search list led to the name, both families are looked up under the same one.
        let name = found_at.map_or(whole, |name| name.to_ascii());
        let (v6, _) = self.records(&name, RecordType::AAAA, ip).await;
        answer::addresses(before, v4, v6)
    }

    async fn services(&self, name: &str) -> LookupAnswer<SrvRecord> {
        let (services, _) = self
            .records(&self.whole(name), RecordType::SRV, service)
            .await;
        services
    }

    fn whole(&self, name: &str) -> String {
        match self.given && !name.ends_with('.') {
            true => format!("{name}."),
            false => name.to_owned(),
        }
    }

    /// The records of a type, and the name that had them.
    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: fn(&RData) -> Option<T>,
    ) -> (LookupAnswer<T>, Option<Name>) {
        let lookup = match self.resolver.lookup(name, kind).await {
            Ok(lookup) => lookup,
            Err(error) if error.is_no_records_found() => return (LookupAnswer::Nothing, None),
            Err(error) => return (LookupAnswer::Failed(text(&error)), None),
        };
        let records = lookup.answers();
        let ttl = records.iter().map(|record| record.ttl).min();
        let found: Vec<T> = records
            .iter()
            .filter_map(|record| read(&record.data))
            .collect();
        if found.is_empty() {
            return (LookupAnswer::Nothing, None);
        }
        let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        (
            LookupAnswer::Records(found, ttl),
            Some(lookup.query().name().clone()),
        )
    }
}

fn set(options: &mut ResolverOpts, given: bool) {
    options.timeout = ANSWER_TIMEOUT;
    options.attempts = RETRIES;
    options.cache_size = 0;
    if given {
        options.use_hosts_file = ResolveHosts::Never;
    }
}

fn ip(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn service(data: &RData) -> Option<SrvRecord> {
    let RData::SRV(record) = data else {
        return None;
    };
    // A lone dot says that there is no such service (RFC 2782).
    if record.target.is_root() {
        return None;
    }
    let target = record.target.to_ascii().to_ascii_lowercase();
    Some(SrvRecord {
        priority: record.priority,
        weight: record.weight,
        port: record.port,
        target: target.trim_end_matches('.').into(),
    })
}

/// What went wrong, without what differs from one time to the next.
fn text(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server answered in time".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_says_nothing_is_given_up() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut lookup = Lookup::new(Discovery::Dns {
            name: "chat.test".into(),
            port: 9000,
            server: Some(silent.local_addr().unwrap()),
        });
        // Long before all of it would have taken too long.
        let expected = LookupError::Failed("no name server answered in time".into());
        assert_eq!(lookup.run().await, Err(expected));
    }

    #[tokio::test]
    async fn whom_nobody_is_asked_about_is_not_found() {
        let found = Lookup::new(Discovery::Listed).run().await;
        assert_eq!(found, Err(LookupError::Nothing));
    }
}
