//! A name server that says what the test wants.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// By UDP, on a port of its own, until it is dropped.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    task: JoinHandle<()>,
}

struct Zone {
    records: HashMap<Name, Vec<RData>>,
    ttl: u32,
    /// Instead of an answer.
    fails_with: Option<ResponseCode>,
    asked: usize,
}

impl NameServer {
    /// Knows nothing yet; what it will know holds for so many seconds.
    pub(crate) async fn start(ttl: u32) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone {
            records: HashMap::new(),
            ttl,
            fails_with: None,
            asked: 0,
        }));
        let known = Arc::clone(&zone);
        let task = tokio::spawn(async move {
            let mut bytes = vec![0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let answer = known.lock().unwrap().answer(&bytes[..length]);
                socket.send_to(&answer, from).await.unwrap();
            }
        });
        Self {
            address,
            zone,
            task,
        }
    }

    /// From now on these are the addresses of the name.
    pub(crate) fn addresses(&self, name: &str, addresses: &[&str]) {
        let records = addresses.iter().map(|each| match each.parse().unwrap() {
            IpAddr::V4(address) => RData::A(address.into()),
            IpAddr::V6(address) => RData::AAAA(address.into()),
        });
        self.set(name, records.collect());
    }

    /// From now on these are the services of the name: priority, weight, port and target.
    pub(crate) fn services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let records = services.iter().map(|(priority, weight, port, target)| {
            RData::SRV(SRV::new(*priority, *weight, *port, whole(target)))
        });
        self.set(name, records.collect());
    }

    /// From now on it answers everything with this.
    pub(crate) fn fail_with(&self, code: ResponseCode) {
        self.zone.lock().unwrap().fails_with = Some(code);
    }

    /// From now on it answers again.
    pub(crate) fn recover(&self) {
        self.zone.lock().unwrap().fails_with = None;
    }

    /// How often it was asked.
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
    fn answer(&mut self, question: &[u8]) -> Vec<u8> {
        self.asked += 1;
        let mut message = Message::from_vec(question).unwrap();
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
