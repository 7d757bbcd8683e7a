//! The three backends: starting and stopping them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

use super::backend;
use super::background::background;
use super::state::{BackendState, ROOM_CAPACITY};

/// The number of backends.
const BACKENDS: usize = 3;

/// All backends.
pub(super) struct DemoFleet {
    backends: Vec<DemoBackend>,
}

/// One backend, running or stopped.
pub(super) struct DemoBackend {
    pub(super) state: Arc<BackendState>,
    pub(super) address: SocketAddr,
    /// The task that serves it and owns all of its connections; none while stopped.
    task: Mutex<Option<AbortHandle>>,
}

impl DemoFleet {
    /// Starts all backends on the current runtime, on free ports.
    pub(super) fn start() -> io::Result<Self> {
        let room = broadcast::Sender::new(ROOM_CAPACITY);
        let mut backends = Vec::with_capacity(BACKENDS);
        for number in 1..=BACKENDS {
            let state = Arc::new(BackendState::new(number, room.clone()));
            backends.push(DemoBackend::new(state)?);
        }
        Ok(Self { backends })
    }

    /// In the order of their numbers.
    pub(super) fn backends(&self) -> &[DemoBackend] {
        &self.backends
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.backends.iter().map(|it| it.address).collect()
    }

    /// The backend with this number, from 1.
    pub(super) fn backend(&self, number: usize) -> Option<&DemoBackend> {
        self.backends.iter().find(|it| it.state.number == number)
    }
}

impl DemoBackend {
    fn new(state: Arc<BackendState>) -> io::Result<Self> {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = listener.local_addr()?;
        let task = Mutex::new(Some(serve(&state, listener)));
        Ok(Self {
            state,
            address,
            task,
        })
    }

    pub(super) fn is_running(&self) -> bool {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        task.is_some()
    }

    /// Starts the backend again on the same port.
    pub(super) fn start(&self) -> io::Result<()> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.is_none() {
            *task = Some(serve(&self.state, listen(self.address)?));
        }
        Ok(())
    }

    /// Stops the backend as a kill would: its listening socket and its connections vanish at once.
    pub(super) fn stop(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

fn serve(state: &Arc<BackendState>, listener: TcpListener) -> AbortHandle {
    background(backend::serve(Arc::clone(state), listener))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A stopped backend leaves connections in TIME_WAIT; without this, it could not start again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
