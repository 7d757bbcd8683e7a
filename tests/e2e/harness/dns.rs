//! A name server that gives the answers that the test sets.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Serves UDP on a port of its own until it is dropped.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

struct Zone {
    records: HashMap<Name, Vec<RData>>,
    ttl: u32,
    /// The response code of every answer while lookups are to fail.
    fails_with: Option<ResponseCode>,
    /// Whether there are no answers at all.
    is_silent: bool,
    asked: usize,
}

impl NameServer {
    /// Starts without any records; those set later have this TTL, in seconds.
    pub(crate) async fn start(ttl: u32) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), ttl).await
    }

    /// Starts at this address.
    pub(crate) async fn at(address: SocketAddr, ttl: u32) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone {
            records: HashMap::new(),
            ttl,
            fails_with: None,
            is_silent: false,
            asked: 0,
        }));
        let known = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let answer = known.lock().unwrap().answer(&bytes[..length]);
                if !known.lock().unwrap().is_silent {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self {
            address,
            zone,
            task,
        }
    }

    /// Replaces the addresses of a name.
    pub(crate) fn addresses(&self, name: &str, addresses: &[&str]) {
        let records = addresses.iter().map(|each| match each.parse().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        });
        self.set(name, records.collect());
    }

    /// Replaces the SRV records of a name: priority, weight, port and target.
    pub(crate) fn services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let records = services.iter().map(|(priority, weight, port, target)| {
            RData::SRV(SRV::new(*priority, *weight, *port, whole(target)))
        });
        self.set(name, records.collect());
    }

    /// Answers every query with this response code from now on.
    pub(crate) fn fail_with(&self, code: ResponseCode) {
        self.zone.lock().unwrap().fails_with = Some(code);
    }

    /// Answers nothing from now on.
    pub(crate) fn fall_silent(&self) {
        self.zone.lock().unwrap().is_silent = true;
    }

    /// Answers from its records again.
    pub(crate) fn recover(&self) {
        self.zone.lock().unwrap().fails_with = None;
    }

    /// The number of queries received.
    pub(crate) fn asked(&self) -> usize {
        self.zone.lock().unwrap().asked
    }

    fn set(&self, name: &str, records: Vec<RData>) {
        let mut zone = self.zone.lock().unwrap();
        zone.records.insert(whole(name), records);
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Zone {
    fn answer(&mut self, query_bytes: &[u8]) -> Vec<u8> {
        self.asked += 1;
        let mut message = Message::from_vec(query_bytes).unwrap();
        message.metadata.message_type = MessageType::Response;
        let query = message.queries[0].clone();
        let known = self.records.get(query.name());
        message.metadata.response_code = match (self.fails_with, known) {
            (Some(code), _) => code,
            (None, None) => ResponseCode::NXDomain,
            (None, Some(_)) => ResponseCode::NoError,
        };
        if self.fails_with.is_none() {
            let records = known.into_iter().flatten();
            let wanted = records.filter(|data| data.record_type() == query.query_type());
            message.add_answers(
                wanted.map(|data| Record::from_rdata(query.name().clone(), self.ttl, data.clone())),
            );
        }
        message.to_vec().unwrap()
    }
}

fn whole(name: &str) -> Name {
    Name::from_ascii(format!("{name}.")).unwrap()
}
