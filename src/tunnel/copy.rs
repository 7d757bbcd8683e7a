//! The portable driver: moves a tunnel's bytes by readiness, over any [`Stream`].
//!
//! Bytes are read into a scratch buffer that belongs to the worker and written across at once;
//! only what the other side does not take is kept, in a box, and its direction reads no more until
//! that is gone. So a tunnel that is quiet, or whose peers keep up, holds no buffer.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ended::Ended;
use super::forwarder::{Forwarder, Side, Step};
use super::table::Place;
use crate::net::stream::Stream;

/// Bytes read at once, and so the most that a direction ever keeps unwritten.
const SCRATCH_BYTES: usize = 64 * 1024;

/// Reads of one direction before the other tunnels of the worker get their turn.
const ROUNDS: usize = 16;

/// The buffer that all tunnels of a worker read into, one after the other.
#[derive(Debug, Clone)]
pub struct Scratch(Rc<RefCell<Box<[u8]>>>);

impl Scratch {
    /// One per worker.
    pub fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0; SCRATCH_BYTES].into())))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What is to be written before anything is relayed.
#[derive(Debug, Default)]
pub struct Owed {
    /// The head of our 101, and what the endpoint sent right behind its own.
    pub to_client: Vec<u8>,
    /// What the client sent right behind its request.
    pub to_endpoint: Vec<u8>,
}

/// A tunnel: a future that ends with the tunnel.
#[derive(Debug)]
pub struct Tunnel {
    client: Stream,
    endpoint: Stream,
    to_client: Unwritten,
    to_endpoint: Unwritten,
    forwarder: Forwarder,
    place: Place,
    scratch: Scratch,
}

impl Tunnel {
    /// Relays between `client` and `endpoint`, after what is `owed` to them.
    pub fn new(
        client: Stream,
        endpoint: Stream,
        owed: Owed,
        place: Place,
        scratch: Scratch,
    ) -> Self {
        Self {
            client,
            endpoint,
            to_client: Unwritten::first(owed.to_client),
            to_endpoint: Unwritten::first(owed.to_endpoint),
            forwarder: Forwarder::new(),
            place,
            scratch,
        }
    }

    /// Moves what can be moved from `side`, until it would have to wait.
    fn pump(&mut self, side: Side, cx: &mut Context<'_>) -> Poll<()> {
        let (source, sink, unwritten) = match side {
            Side::Client => (&mut self.client, &mut self.endpoint, &mut self.to_endpoint),
            Side::Endpoint => (&mut self.endpoint, &mut self.client, &mut self.to_client),
        };
        for _ in 0..ROUNDS {
            let step = self.forwarder.step(side);
            if step == Step::Done {
                unwritten.forget();
                return Poll::Ready(());
            }
            if ready!(unwritten.deliver(sink, cx)).is_err() {
                self.forwarder.sink_broke(side.other());
                continue;
            }
            if step == Step::PassEnd {
                // A reset is not announced by an orderly end.
                if self.forwarder.reset_to() != Some(side.other()) {
                    // Whether the sink took it changes nothing for us.
                    let _ = ready!(Pin::new(&mut *sink).poll_shutdown(cx));
                }
                self.forwarder.end_passed(side);
                continue;
            }
            let mut scratch = self.scratch.0.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *source).poll_read(cx, &mut buffer)) {
                Err(_) => self.forwarder.source_broke(side),
                Ok(()) if buffer.filled().is_empty() => self.forwarder.source_ended(side),
                Ok(()) => {
                    self.place.entry().meter.count(side, buffer.filled().len());
                    if unwritten.write(sink, buffer.filled(), cx).is_err() {
                        self.forwarder.sink_broke(side.other());
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Future for Tunnel {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let tunnel = self.get_mut();
        if let Some(verdict) = tunnel.place.entry().verdict() {
            return Poll::Ready(verdict);
        }
        tunnel.place.entry().set_waker(cx.waker());
        let _ = tunnel.pump(Side::Client, cx);
        let _ = tunnel.pump(Side::Endpoint, cx);
        if tunnel.forwarder.is_half_closed() {
            tunnel.place.entry().set_half_closed();
        }
        let Some(ended) = tunnel.forwarder.ended() else {
            return Poll::Pending;
        };
        match tunnel.forwarder.reset_to() {
            Some(Side::Client) => tunnel.client.reset_on_close(),
            Some(Side::Endpoint) => tunnel.endpoint.reset_on_close(),
            None => {}
        }
        Poll::Ready(ended)
    }
}

/// What one direction has read and not yet written.
#[derive(Debug)]
struct Unwritten {
    rest: Option<Box<Rest>>,
    /// Bytes were written that may still be inside TLS.
    unflushed: bool,
}

#[derive(Debug)]
struct Rest {
    bytes: Box<[u8]>,
    written: usize,
}

impl Unwritten {
    fn first(bytes: Vec<u8>) -> Self {
        let mut unwritten = Self {
            rest: None,
            unflushed: false,
        };
        if !bytes.is_empty() {
            unwritten.keep(bytes.into());
        }
        unwritten
    }

    fn keep(&mut self, bytes: Box<[u8]>) {
        self.rest = Some(Box::new(Rest { bytes, written: 0 }));
    }

    fn forget(&mut self) {
        self.rest = None;
    }

    /// Ready when nothing is left, not even inside TLS.
    fn deliver(&mut self, sink: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = &mut self.rest {
            let left = rest.bytes.get(rest.written..).unwrap_or_default();
            if left.is_empty() {
                self.rest = None;
                break;
            }
            match ready!(Pin::new(&mut *sink).poll_write(cx, left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => rest.written += written,
            }
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(sink).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the sink takes and keeps the rest.
    fn write(
        &mut self,
        sink: &mut Stream,
        mut bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        self.unflushed = true;
        while !bytes.is_empty() {
            match Pin::new(&mut *sink).poll_write(cx, bytes) {
                Poll::Ready(written) => match written? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    written => bytes = bytes.get(written..).unwrap_or_default(),
                },
                Poll::Pending => {
                    self.keep(bytes.into());
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::TunnelTimeouts;
    use crate::net::stream::Socket;
    use crate::tunnel::table::Table;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// Both ends of a connection: ours first.
    async fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (near, _) = listener.accept().await.unwrap();
        (Stream::Plain(Socket::Tcp(near)), far)
    }

    struct Ends {
        tunnel: Tunnel,
        client: TcpStream,
        endpoint: TcpStream,
        table: Rc<Table>,
    }

    async fn ends(owed: Owed) -> Ends {
        let ((near_client, client), (near_endpoint, endpoint)) = (pair().await, pair().await);
        let table = Rc::new(Table::default());
        let place = table.enter(TunnelTimeouts {
            idle: None,
            half_closed: None,
        });
        let tunnel = Tunnel::new(near_client, near_endpoint, owed, place, Scratch::new());
        Ends {
            tunnel,
            client,
            endpoint,
            table,
        }
    }

    #[test]
    fn a_tunnel_is_small() {
        // Two sockets, at most one remainder each way, and its place in the table.
        assert!(size_of::<Tunnel>() <= 256, "{} bytes", size_of::<Tunnel>());
    }

    #[tokio::test]
    async fn what_is_owed_comes_first() {
        let owed = Owed {
            to_client: b"101 ".to_vec(),
            to_endpoint: b"early ".to_vec(),
        };
        let Ends {
            tunnel,
            mut client,
            mut endpoint,
            ..
        } = ends(owed).await;
        client.write_all(b"up").await.unwrap();
        client.shutdown().await.unwrap();
        endpoint.write_all(b"down").await.unwrap();
        endpoint.shutdown().await.unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let (ended, _, _) = tokio::join!(
            tunnel,
            async { endpoint.read_to_end(&mut up).await.unwrap() },
            async { client.read_to_end(&mut down).await.unwrap() },
        );
        assert_eq!(
            (up.as_slice(), down.as_slice()),
            (&b"early up"[..], &b"101 down"[..])
        );
        assert!(matches!(ended, Ended::ClientEof | Ended::UpstreamEof));
    }

    #[tokio::test]
    async fn a_reader_that_stalls_stops_the_other_side_and_loses_nothing() {
        let Ends {
            tunnel,
            client,
            endpoint,
            table,
        } = ends(Owed::default()).await;
        const TOTAL: usize = 32 << 20;
        let pattern = |at: usize| (at % 251) as u8;
        let (mut client_read, client_write) = client.into_split();
        let stalled = Rc::new(tokio::sync::Notify::new());
        let writer = {
            let stalled = Rc::clone(&stalled);
            async move {
                let mut endpoint = endpoint;
                let mut sent = 0;
                while sent < TOTAL {
                    let chunk: Vec<u8> = (sent..TOTAL.min(sent + 60_000)).map(pattern).collect();
                    let write = endpoint.write_all(&chunk);
                    tokio::pin!(write);
                    // The kernel's buffers are full once a write has to wait.
                    if futures_util::poll!(&mut write).is_pending() {
                        stalled.notify_one();
                        write.await.unwrap();
                    }
                    sent += chunk.len();
                }
                endpoint.shutdown().await.unwrap();
            }
        };
        let reader = async move {
            stalled.notified().await;
            assert!(table.len() == 1);
            let mut all = Vec::with_capacity(TOTAL);
            client_read.read_to_end(&mut all).await.unwrap();
            assert!(all.len() == TOTAL && all.iter().enumerate().all(|(at, &b)| b == pattern(at)));
            drop(client_write);
        };
        let (ended, (), ()) = tokio::join!(tunnel, writer, reader);
        assert_eq!(ended, Ended::UpstreamEof);
    }

    #[tokio::test]
    async fn a_reset_is_passed_on_after_what_came_before_it() {
        let Ends {
            tunnel,
            mut client,
            endpoint,
            ..
        } = ends(Owed::default()).await;
        client.write_all(b"last words").await.unwrap();
        let mut endpoint = endpoint;
        let (ended, ()) = tokio::join!(tunnel, async {
            let mut words = [0; 10];
            endpoint.read_exact(&mut words).await.unwrap();
            assert_eq!(&words, b"last words");
            client.set_zero_linger().unwrap();
            drop(client);
            let error = endpoint.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
        assert_eq!(ended, Ended::ClientReset);
    }

    #[tokio::test]
    async fn a_verdict_ends_a_quiet_tunnel() {
        let Ends {
            tunnel,
            client,
            endpoint,
            table,
        } = ends(Owed::default()).await;
        let (ended, ()) = tokio::join!(tunnel, async { table.end_all(Ended::Shutdown) });
        assert_eq!(ended, Ended::Shutdown);
        assert!(table.is_empty());
        drop((client, endpoint));
    }
}
