//! The parts of a runtime that hickory needs: spawning, time and sockets, all of the current tokio
//! runtime.
//!
//! hickory has the same behind its feature `tokio`. That enables tokio's `rt-multi-thread` for the whole
//! program, which makes every socket of every tunnel larger, although no runtime here has more than
//! one thread.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::task::JoinSet;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The runtime that the lookup is polled on. Tasks spawned on it are aborted with the last clone, so
/// that a lookup leaves nothing behind.
#[derive(Debug, Clone, Default)]
pub(super) struct CurrentRuntime {
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Spawn for CurrentRuntime {
    fn spawn_bg(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // A join set keeps the results of tasks until they are collected.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

impl RuntimeProvider for CurrentRuntime {
    type Handle = Self;
    type Timer = Timer;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        self.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> BoxFuture<io::Result<Tcp>> {
        Box::pin(async move {
            let socket = match server {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            if let Some(bind) = bind {
                socket.bind(bind)?;
            }
            let limit = timeout.unwrap_or(super::ANSWER_TIMEOUT);
            let stream = tokio::time::timeout(limit, socket.connect(server)).await??;
            stream.set_nodelay(true)?;
            Ok(Tcp(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> BoxFuture<io::Result<Udp>> {
        Box::pin(async move { UdpSocket::bind(local).await.map(Udp) })
    }
}

/// tokio's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timer;

impl Time for Timer {
    fn delay_for<'a>(duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn timeout<'a, F>(
        duration: Duration,
        future: F,
    ) -> Pin<Box<dyn Future<Output = io::Result<F::Output>> + Send + 'a>>
    where
        F: Future + Send + 'static + 'a,
    {
        Box::pin(async move { Ok(tokio::time::timeout(duration, future).await?) })
    }
}

/// A UDP socket.
#[derive(Debug)]
pub(super) struct Udp(UdpSocket);

impl DnsUdpSocket for Udp {
    type Time = Timer;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buf = ReadBuf::new(buf);
        let from = ready!(self.0.poll_recv_from(cx, &mut buf))?;
        Poll::Ready(Ok((buf.filled().len(), from)))
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buf: &[u8],
        target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, buf, target)
    }
}

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Tcp(TcpStream);

impl DnsTcpStream for Tcp {
    type Time = Timer;
}

impl AsyncRead for Tcp {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
