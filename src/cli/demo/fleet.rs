//! The three backends: starting and stopping them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::net::TcpSocket;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::backend;
use super::state::{BackendState, SharedState};

/// The number of backends.
pub(super) const BACKENDS: usize = 3;

/// All backends, and the runtime that they share.
pub(super) struct DemoFleet {
    pub(super) runtime: Handle,
    backends: Vec<Backend>,
}

/// One backend, running or stopped.
pub(super) struct Backend {
    state: Arc<BackendState>,
    address: SocketAddr,
    /// The task that serves it and owns all of its connections; none while stopped.
    task: Mutex<Option<AbortHandle>>,
}

impl DemoFleet {
    /// Starts all backends on a thread of their own.
    pub(super) fn start() -> io::Result<Arc<Self>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let shared = SharedState::new();
        let mut backends = Vec::with_capacity(BACKENDS);
        for number in 1..=BACKENDS {
            backends.push(Backend::first_start(shared.add(number), &handle)?);
        }
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
    pub(super) fn backend(&self, number: usize) -> Option<&Backend> {
        self.backends
            .iter()
            .find(|backend| backend.state.number == number)
    }
}

impl Backend {
    /// Starts a backend for the first time, on a free port.
    fn first_start(state: Arc<BackendState>, runtime: &Handle) -> io::Result<Self> {
        let _entered = runtime.enter();
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let backend = Self {
            state,
            address: listener.local_addr()?,
            task: Mutex::default(),
        };
        *backend.task.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(backend.serve(listener, runtime));
        Ok(backend)
    }

    /// Starts the backend again on the same port.
    pub(super) fn start(&self, runtime: &Handle) -> io::Result<()> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            let _entered = runtime.enter();
            let listener = listen(self.address)?;
            *task = Some(self.serve(listener, runtime));
        }
        Ok(())
    }

    fn serve(&self, listener: tokio::net::TcpListener, runtime: &Handle) -> AbortHandle {
        self.state.is_up.store(true, Ordering::Relaxed);
        let serving = backend::serve(Arc::clone(&self.state), listener);
        runtime.spawn(serving).abort_handle()
    }

    /// Stops the backend as a kill would: its listening socket and its connections vanish at once.
    pub(super) fn stop(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            self.state.is_up.store(false, Ordering::Relaxed);
            task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A stopped backend leaves connections in TIME_WAIT; without this, it could not start again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
