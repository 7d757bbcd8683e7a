//! The bare relay: two threads that copy bytes between sockets. No proxy can cost less.

use std::cell::RefCell;
use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use super::rig::runtime;

const THREADS: usize = 2;

/// Relays until the process is killed.
pub(crate) fn run(from: SocketAddr, to: SocketAddr) {
    let threads: Vec<_> = (0..THREADS)
        .map(|_| std::thread::spawn(move || serve(from, to)))
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn serve(from: SocketAddr, to: SocketAddr) {
    runtime().block_on(async move {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&from.into()).unwrap();
        socket.listen(4096).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        loop {
            let (near, _) = listener.accept().await.unwrap();
            tokio::task::spawn_local(async move {
                let Ok(far) = TcpStream::connect(to).await else {
                    return;
                };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                let back = tokio::task::spawn_local(copy(far_read, near_write));
                copy(near_read, far_write).await;
                let _ = back.await;
            });
        }
    });
}

/// Copies until the end. A buffer is held only while it has bytes in it, because thousands of
/// connections are idle at the same time.
pub(crate) async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    loop {
        if from.readable().await.is_err() {
            return;
        }
        let spare = BUFFERS.with_borrow_mut(Vec::pop);
        let mut buffer = spare.unwrap_or_else(|| vec![0; BUFFER_BYTES]);
        let failed = match from.read(&mut buffer).await {
            Ok(length @ 1..) => to.write_all(&buffer[..length]).await.is_err(),
            _ => true,
        };
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
        if failed {
            let _ = to.shutdown().await;
            return;
        }
    }
}

const BUFFER_BYTES: usize = 64 * 1024;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}
