//! Connections to endpoints that fail, with the same reason everywhere.

use socket2::{Domain, Socket, Type};
use tidegate::protocol::rejection::Rejection;

use super::{SEEN, look};
use crate::harness::endpoint::Endpoint;
use crate::harness::proxy::{Proxy, settings};
use crate::harness::wire::{HANDSHAKE, Wire};

#[tokio::test]
async fn connect_failures_have_the_same_reason_everywhere() {
    let gone = Endpoint::bind().await.address;
    // A full backlog: the kernel drops further SYNs.
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into())
        .unwrap();
    full.listen(0).unwrap();
    let full_address = full.local_addr().unwrap().as_socket().unwrap();
    let _first = Wire::connect(full_address).await;
    let listed = full_address.to_string();
    for (rejection, address) in [
        (Rejection::ConnectFailed, gone.to_string()),
        (Rejection::ConnectTimeout, listed.clone()),
        // A name that never exists (RFC 6761).
        (Rejection::NameUnresolved, "chat.invalid:9000".to_owned()),
    ] {
        let config = settings(&[full_address], "", "") + "timeouts.connect = \"300ms\"\n";
        let config = config.replace(&listed, &address);
        let proxy = Proxy::start(&(SEEN.to_owned() + &config)).await;
        let mut wire = proxy.connect().await;
        wire.send(HANDSHAKE).await;
        look(&proxy, rejection, &mut wire).await;
    }
}
