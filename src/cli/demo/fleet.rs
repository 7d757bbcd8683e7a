//! The three backends: which of them run, and what they have in common.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde::Serialize;
use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use super::backend;

/// How many there are.
pub(super) const BACKENDS: usize = 3;

/// Chat messages that a slow reader may be behind by.
const ROOM: usize = 256;

/// The backends.
pub(super) struct Fleet {
    pub(super) runtime: Handle,
    backends: Vec<Arc<Backend>>,
}

/// One backend, running or stopped.
pub(super) struct Backend {
    pub(super) number: usize,
    address: SocketAddr,
    /// The task that serves it and owns all of its connections; none while stopped.
    running: Mutex<Option<AbortHandle>>,
    pub(super) sockets: AtomicUsize,
    pub(super) messages: AtomicU64,
    pub(super) common: Arc<Common>,
}

/// What all backends share.
pub(super) struct Common {
    pub(super) room: broadcast::Sender<Arc<str>>,
    pub(super) since: Instant,
    all: Mutex<Vec<Arc<Backend>>>,
}

/// What the dashboard shows of a backend.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    number: usize,
    up: bool,
    tunnels: usize,
    messages: u64,
}

impl Fleet {
    /// Starts all of them, on a thread of their own.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let common = Arc::new(Common {
            room: broadcast::Sender::new(ROOM),
            since: Instant::now(),
            all: Mutex::default(),
        });
        let mut backends = Vec::with_capacity(BACKENDS);
        for number in 1..=BACKENDS {
            let backend = {
                let _entered = handle.enter();
                Backend::first_start(number, &common, &handle)?
            };
            backends.push(backend);
        }
        common
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&backends);
        thread::Builder::new()
            .name("demo-backends".into())
            .spawn(move || {
                runtime.block_on(std::future::pending::<()>());
            })?;
        Ok(Arc::new(Self {
            runtime: handle,
            backends,
        }))
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.backends
            .iter()
            .map(|backend| backend.address)
            .collect()
    }

    /// The backend with this number, from 1.
    pub(super) fn backend(&self, number: usize) -> Option<&Arc<Backend>> {
        self.backends
            .iter()
            .find(|backend| backend.number == number)
    }
}

impl Backend {
    fn first_start(number: usize, common: &Arc<Common>, runtime: &Handle) -> io::Result<Arc<Self>> {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let backend = Arc::new(Self {
            number,
            address: listener.local_addr()?,
            running: Mutex::default(),
            sockets: AtomicUsize::new(0),
            messages: AtomicU64::new(0),
            common: Arc::clone(common),
        });
        let task = runtime
            .spawn(backend::serve(Arc::clone(&backend), listener))
            .abort_handle();
        *backend
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(backend)
    }

    /// Starts it again where it was.
    pub(super) fn start(self: &Arc<Self>, runtime: &Handle) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            let _entered = runtime.enter();
            let listener = listen(self.address)?;
            let task = runtime.spawn(backend::serve(Arc::clone(self), listener));
            *running = Some(task.abort_handle());
        }
        Ok(())
    }

    /// Ends it as a kill would: its listening socket and its connections are simply gone.
    pub(super) fn stop(&self) {
        if let Some(task) = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            task.abort();
        }
    }

    fn status(&self) -> Status {
        Status {
            number: self.number,
            up: self
                .running
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some(),
            tunnels: self.sockets.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
        }
    }
}

impl Common {
    pub(super) fn status(&self) -> Vec<Status> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|backend| backend.status()).collect()
    }
}

fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
