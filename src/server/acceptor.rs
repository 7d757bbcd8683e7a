//! Accepting: one thread takes connections from all listening sockets and hands each to the worker
//! that has the fewest.
//!
//! One acceptor rather than SO_REUSEPORT, because that spreads by hash, and connections that live
//! for days stay where they fell.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Handle as Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::limits;
use super::worker::{self, Message};
use crate::front::accept::Arrival;
use crate::net::admission::Admission;
use crate::net::listen::{Accepted, Bound, Listener};

/// How long accepting rests when the system is out of descriptors or memory.
const EXHAUSTED_REST: Duration = Duration::from_millis(100);

/// Connections taken from one socket before the others get their turn.
const TAKEN_AT_ONCE: usize = 64;

/// The thread that accepts.
#[derive(Debug)]
pub(super) struct Acceptor {
    runtime: Runtime,
    to: Arc<Destination>,
    _until: oneshot::Sender<()>,
}

/// Where connections go.
#[derive(Debug)]
struct Destination {
    workers: Arc<[worker::Handle]>,
    admission: Arc<Admission>,
}

/// A socket that is being accepted from.
#[derive(Debug)]
pub(super) struct Accepting {
    /// The listener that its connections belong to.
    pub(super) owner: Arc<ArcSwap<Listener>>,
    /// The address as bound.
    pub(super) address: String,
    stop: oneshot::Sender<()>,
    done: JoinHandle<()>,
}

impl Accepting {
    /// Takes what the kernel has already queued, then closes the socket.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        // It ends by itself; a panic of its own is in the log.
        let _ = self.done.await;
    }
}

impl Acceptor {
    /// Starts the thread, as the last of the process: what is left of its `descriptors` by then is
    /// for connections.
    ///
    /// # Errors
    /// When the system has no thread or no event queue for it.
    pub(super) fn start(workers: Arc<[worker::Handle]>, descriptors: u64) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let most = Admission::most_for(descriptors, limits::open_descriptors());
        let admission = Arc::new(Admission::new(most));
        let handle = runtime.handle().clone();
        let (until, ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name("acceptor".into())
            .spawn(move || {
                // An error means that the other side was dropped, which is the end all the same.
                let _ = runtime.block_on(ended);
            })?;
        Ok(Self {
            runtime: handle,
            to: Arc::new(Destination { workers, admission }),
            _until: until,
        })
    }

    /// Connections at once, at most.
    pub(super) fn connections_most(&self) -> usize {
        self.to.admission.most()
    }

    /// Begins to accept from `bound`, for `listener`.
    ///
    /// # Errors
    /// When the socket cannot be registered with the event queue.
    pub(super) fn add(&self, bound: Bound, listener: Arc<Listener>) -> io::Result<Accepting> {
        let address = bound.address();
        let owner = Arc::new(ArcSwap::new(listener));
        let (stop, stopped) = oneshot::channel();
        let socket = {
            let _entered = self.runtime.enter();
            #[expect(
                deprecated,
                reason = "its successor is unsafe; `Bound` owns its one descriptor, and gives out no other"
            )]
            AsyncFd::with_interest(Descriptor(bound), Interest::READABLE)?
        };
        let done = self.runtime.spawn(accept_all(
            socket,
            Arc::clone(&owner),
            Arc::clone(&self.to),
            stopped,
        ));
        Ok(Accepting {
            owner,
            address,
            stop,
            done,
        })
    }
}

/// What `AsyncFd` wants of a socket.
struct Descriptor(Bound);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

async fn accept_all(
    socket: AsyncFd<Descriptor>,
    owner: Arc<ArcSwap<Listener>>,
    to: Arc<Destination>,
    mut stopped: oneshot::Receiver<()>,
) {
    let bound = &socket.get_ref().0;
    // Only the waits may be cut short: what has been accepted is always handed over.
    while let Some(mut ready) = until(&mut stopped, socket.readable()).await {
        let Ok(ready) = ready.as_mut() else { break };
        for _ in 0..TAKEN_AT_ONCE {
            if !to.admission.has_room() && until(&mut stopped, to.room(bound)).await.is_none() {
                break;
            }
            match bound.accept() {
                Ok(accepted) => to.hand_over(accepted, &owner).await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    break;
                }
                Err(error) if is_exhaustion(&error) => {
                    tracing::error!(
                        listener = %owner.load().name,
                        %error,
                        "cannot accept: new connections wait"
                    );
                    tokio::time::sleep(EXHAUSTED_REST).await;
                    break;
                }
                // The client was gone before we came to it.
                Err(error) => tracing::debug!(%error, "accept"),
            }
        }
        tokio::task::yield_now().await;
    }
    while let Ok(accepted) = bound.accept() {
        to.hand_over(accepted, &owner).await;
    }
}

/// What `wait` ends with, or `None` when accepting is to stop.
async fn until<T>(stopped: &mut oneshot::Receiver<()>, wait: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        _ = stopped => None,
        value = wait => Some(value),
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

impl Destination {
    /// Waits for room; meanwhile new connections stay in the kernel's queue.
    async fn room(&self, bound: &Bound) {
        tracing::warn!(
            address = bound.address(),
            connections = self.admission.open(),
            "as many connections as file descriptors allow: new ones wait"
        );
        self.admission.room().await;
        tracing::info!(address = bound.address(), "accepting again");
    }

    /// Gives a connection to the worker that has the fewest, or to the next that has room for it.
    async fn hand_over(&self, accepted: Accepted, owner: &ArcSwap<Listener>) {
        let mut order: Vec<&worker::Handle> = self.workers.iter().collect();
        order.sort_by_key(|worker| worker.load.connections());
        let free = order.iter().find_map(|worker| {
            worker
                .mailbox
                .try_reserve()
                .ok()
                .map(|place| (*worker, place))
        });
        let (worker, place) = match (free, order.first()) {
            (Some(found), _) => found,
            // All are behind by a whole mailbox: accepting is what has to wait.
            (None, Some(first)) => match first.mailbox.reserve().await {
                Ok(place) => (*first, place),
                Err(_) => return,
            },
            (None, None) => return,
        };
        place.send(Message::Arrival(Box::new(Arrival {
            accepted,
            listener: owner.load_full(),
            permit: self.admission.admit(&worker.load),
        })));
    }
}
