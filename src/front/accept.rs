//! From an accepted socket to a stream that speaks HTTP: TLS, within its deadline.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::http;
use crate::net::admission::Permit;
use crate::net::listen::{Accepted, Listener};
use crate::net::stream::{Socket, Stream};
use crate::session::{Connection, Worker};

/// An accepted connection on its way to a worker.
#[derive(Debug)]
pub struct Arrival {
    /// The socket.
    pub accepted: Accepted,
    /// Where it came in.
    pub listener: Arc<Listener>,
    /// Its place among the connections of the process.
    pub permit: Permit,
}

/// Serves an arrival until its connection, or the tunnel that came of it, has ended.
pub async fn serve(worker: Rc<Worker>, arrival: Arrival) {
    let Arrival {
        accepted,
        listener,
        permit,
    } = arrival;
    worker.counters.connections.add(1);
    let client = accepted.peer();
    let local_port = accepted.local_port();
    let settings = listener.settings.load_full();
    let stream = match register(accepted) {
        Ok(socket) => match &settings.tls {
            None => Ok(Stream::Plain(socket)),
            // In a box: what a handshake needs is large, and is over soon.
            Some(tls) => Box::pin(secure(&worker, tls, &settings, socket)).await,
        },
        Err(error) => Err(error),
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%client, listener = %listener.name, %error, "no connection came of it");
            return;
        }
    };
    let connection = Connection {
        secure: settings.tls.is_some(),
        timeouts: settings.timeouts,
        worker,
        listener,
        client,
        local_port,
    };
    drop(settings);
    http::serve(Rc::new(connection), stream, permit).await;
}

/// Hands the socket to this worker's event loop.
fn register(accepted: Accepted) -> io::Result<Socket> {
    match accepted {
        Accepted::Tcp(socket, ..) => TcpStream::from_std(socket).map(Socket::Tcp),
        Accepted::Unix(socket) => UnixStream::from_std(socket).map(Socket::Unix),
    }
}

async fn secure(
    worker: &Worker,
    tls: &Arc<ServerConfig>,
    settings: &crate::net::listen::Settings,
    socket: Socket,
) -> io::Result<Stream> {
    let handshake = TlsAcceptor::from(Arc::clone(tls)).accept(socket);
    let result = match tokio::time::timeout(settings.timeouts.tls_handshake, handshake).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no TLS handshake in time",
        )),
    };
    match result {
        Ok(stream) => {
            worker.counters.tls_handshakes.add(1);
            Ok(Stream::Client(Box::new(stream)))
        }
        Err(error) => {
            worker.counters.tls_failures.add(1);
            Err(error)
        }
    }
}
