//! Discovery by DNS: endpoints at the addresses of a name (A, AAAA), or of a service (SRV).
//!
//! A [`Lookup`] queries name servers; `answer` turns their records into endpoints. `server` decides
//! when to look up, and applies the result.

pub mod answer;
pub mod record;
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

/// The timeout of one query to one name server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Retries of a query that times out.
const RETRIES: usize = 1;

/// The timeout of a whole lookup, with all names of a search list and all targets of a service.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Targets of a service that are looked up at the same time.
const CONCURRENT_TARGETS: usize = 16;

/// Why a lookup found no endpoints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name server reports that there are no records.
    #[error("the name has no endpoints")]
    Nothing,
    /// No name server gave a usable response.
    #[error("{0}")]
    Failed(String),
    /// The lookup timed out.
    #[error("no response within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

/// The endpoints that a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// At least one endpoint; sorted, without duplicates.
    pub endpoints: Vec<EndpointConfig>,
    /// How long the result is valid.
    pub ttl: Duration,
}

/// The lookups of one upstream, one at a time.
#[derive(Debug)]
pub struct Lookup {
    discovery: Discovery,
    /// The last known addresses of each host: if one of its lookups fails, it keeps them.
    hosts: BTreeMap<Box<str>, Vec<IpAddr>>,
}

impl Lookup {
    /// Lookups as configured in `discovery`. If that is not DNS, they never find anything.
    pub fn new(discovery: Discovery) -> Self {
        Self {
            discovery,
            hosts: BTreeMap::new(),
        }
    }

    /// Looks up the endpoints now.
    ///
    /// # Errors
    /// [`LookupError`].
    pub async fn run(&mut self) -> Result<Discovered, LookupError> {
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.look_up()).await {
            Ok(result) => result,
            Err(_) => Err(LookupError::Timeout(LOOKUP_TIMEOUT)),
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
                let endpoints = answer::of_host(&name, &addresses, port);
                self.hosts.insert(name, addresses);
                Ok(Discovered { endpoints, ttl })
            }
            Discovery::Srv { name, server } => self.services(&name, server).await,
            Discovery::Listed | Discovery::File(_) | Discovery::Kubernetes(_) => {
                Err(LookupError::Nothing)
            }
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
        let mut targets: Vec<Box<str>> = services
            .iter()
            .map(|service| service.target.clone())
            .collect();
        targets.sort_unstable();
        targets.dedup();
        targets.truncate(answer::MAX_TARGETS);
        let hosts = &self.hosts;
        let answers: Vec<_> = stream::iter(targets)
            .map(|target| {
                let servers = &servers;
                async move {
                    let before = hosts.get(&target).map_or(&[][..], Vec::as_slice);
                    // A target is a complete name: no search list applies to it (RFC 2782).
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

/// The name servers to query.
struct NameServers {
    resolver: Resolver<CurrentRuntime>,
    /// Whether the configuration names the server. Then the hosts file and the search list do not apply.
    is_configured: bool,
}

impl NameServers {
    /// Built for each lookup, because the system's resolver configuration may have changed. There is no
    /// cache that would be worth keeping.
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
        configure(builder.options_mut(), server.is_some());
        Ok(Self {
            resolver: builder.build().map_err(failed)?,
            is_configured: server.is_some(),
        })
    }

    async fn addresses(&self, name: &str, before: &[IpAddr]) -> LookupAnswer<IpAddr> {
        let query = self.absolute(name);
        let (v4, full_name) = self.records(&query, RecordType::A, ip).await;
        // If a search list completed the name, the other family is looked up under the same name.
        // Otherwise the two could come from different hosts.
        let name = full_name.map_or(query, |name| name.to_ascii());
        let (v6, _) = self.records(&name, RecordType::AAAA, ip).await;
        answer::addresses(before, v4, v6)
    }

    async fn services(&self, name: &str) -> LookupAnswer<SrvRecord> {
        let (services, _) = self
            .records(&self.absolute(name), RecordType::SRV, service)
            .await;
        services
    }

    /// The name to query, with a dot at the end if no search list applies.
    fn absolute(&self, name: &str) -> String {
        match self.is_configured && !name.ends_with('.') {
            true => format!("{name}."),
            false => name.to_owned(),
        }
    }

    /// The records of one type, and the full name that they were found under.
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
        let values: Vec<T> = records
            .iter()
            .filter_map(|record| read(&record.data))
            .collect();
        if values.is_empty() {
            return (LookupAnswer::Nothing, None);
        }
        let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
        (
            LookupAnswer::Records(values, ttl),
            Some(lookup.query().name().clone()),
        )
    }
}

fn configure(options: &mut ResolverOpts, is_configured: bool) {
    options.timeout = ANSWER_TIMEOUT;
    options.attempts = RETRIES;
    // `server/discovery` looks up again when a TTL ends; a cache would only delay a failure.
    options.cache_size = 0;
    if is_configured {
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
    // A target of only a dot means that the service does not exist (RFC 2782).
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

/// The error as text, without details that differ each time: `server/discovery` logs a failure once,
/// as long as its text stays the same.
fn text(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server responded in time".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_name_server_is_given_up() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut lookup = Lookup::new(Discovery::Dns {
            name: "chat.test".into(),
            port: 9000,
            server: Some(silent.local_addr().unwrap()),
        });
        // The query times out long before the whole lookup does.
        let expected = LookupError::Failed("no name server responded in time".into());
        assert_eq!(lookup.run().await, Err(expected));
    }

    #[tokio::test]
    async fn without_dns_nothing_is_found() {
        let found = Lookup::new(Discovery::Listed).run().await;
        assert_eq!(found, Err(LookupError::Nothing));
    }
}
