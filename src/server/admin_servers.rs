//! The servers of the admin interface and of public metrics, and what they show after every reload.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::errors::StartError;
use super::reload::Reloader;
use crate::admin::api::Api;
use crate::admin::default_socket;
use crate::admin::http::AdminServer;
use crate::admin::public::Public;
use crate::admin::view::View;
use crate::config::model::{Admin, Bind};
use crate::net::bind::ListeningSocket;
use crate::net::inherited::{InheritedSockets, Purpose, SocketId};
use crate::net::listen_error::ListenFailure;

/// The running servers. Dropping this closes them.
#[derive(Debug)]
pub(super) struct AdminServers {
    view: Arc<View>,
    /// Sockets that are not served yet: the predecessor serves them.
    waiting: Option<AdminSockets>,
    public: Option<(SocketId, AdminServer)>,
    api: Option<(SocketId, AdminServer)>,
    /// Connections that are still open after the servers were left to a successor.
    retired: Vec<JoinSet<()>>,
}

/// The sockets of these servers, before they are served.
#[derive(Debug)]
pub(super) struct AdminSockets {
    public: Option<(SocketId, ListeningSocket)>,
    api: Option<(SocketId, ListeningSocket)>,
}

impl AdminSockets {
    /// Binds the sockets that are not inherited.
    ///
    /// # Errors
    /// [`StartError::Admin`].
    pub(super) fn open(
        admin: &Admin,
        inherited: &mut InheritedSockets,
    ) -> Result<Self, StartError> {
        let mut bound = |bind: &Bind, purpose| {
            let id = SocketId::new(purpose, bind);
            let bound = match first_of(inherited, &id, bind)? {
                Some(inherited) => inherited,
                None => ListeningSocket::bind(bind)?,
            };
            Ok((id, bound))
        };
        let public = admin
            .metrics_bind
            .as_ref()
            .map(|bind| bound(bind, Purpose::Metrics).map_err(|error| unbound(bind, error)));
        let public = public.transpose()?;
        let api = match &admin.bind {
            Some(_) if admin.is_default => open_default(admin, inherited),
            Some(bind) => {
                let failed = |error| unbound(bind, error);
                Some(bound(bind, Purpose::Admin).map_err(failed)?)
            }
            None => None,
        };
        Ok(Self { public, api })
    }
}

/// Opens the admin socket in a place that the configuration does not name. It was not asked for: the process
/// also runs without it.
fn open_default(
    admin: &Admin,
    inherited: &mut InheritedSockets,
) -> Option<(SocketId, ListeningSocket)> {
    let places = default_socket::places();
    let at = |place: &PathBuf| {
        let bind = admin.bind_at(place.clone());
        (SocketId::new(Purpose::Admin, &bind), bind)
    };
    // The predecessor may have had another one of them, where operators expect it.
    for (id, bind) in places.iter().map(at) {
        if let Ok(Some(socket)) = first_of(inherited, &id, &bind) {
            return Some((id, socket));
        }
    }
    let mut failures = Vec::new();
    for place in &places {
        let (id, bind) = at(place);
        let made = default_socket::make_folder(place);
        match made.and_then(|()| ListeningSocket::bind(&bind)) {
            Ok(bound) => return Some((id, bound)),
            // The socket of another user does not stand in the way of this one's.
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && !default_socket::is_of_another(place) =>
            {
                let why =
                    "another process uses this socket: give each process its own `admin.bind`";
                tracing::warn!(address = %bind, why, "not serving the admin interface");
                return None;
            }
            Err(error) => failures.push(format!("{bind}: {error}")),
        }
    }
    tracing::warn!(
        error = failures.join("; "),
        remedy = "make /run/tidegate for the user of this process (systemd: `RuntimeDirectory=tidegate`), set \
                  XDG_RUNTIME_DIR, or set `admin.bind`; \"off\" there silences this warning",
        "not serving the admin interface: `tidegate status` and the other commands will not reach this process"
    );
    None
}

/// The socket of the predecessor with this identity, if there is one.
fn first_of(
    inherited: &mut InheritedSockets,
    id: &SocketId,
    bind: &Bind,
) -> io::Result<Option<ListeningSocket>> {
    Ok(inherited.take(id, bind)?.into_iter().next())
}

fn unbound(bind: &Bind, error: io::Error) -> StartError {
    StartError::Admin {
        bind: bind.clone(),
        place: None,
        source: ListenFailure::new(bind, error),
    }
}

impl AdminServers {
    /// Will serve `view` on the sockets.
    pub(super) fn new(sockets: AdminSockets, view: Arc<View>) -> Self {
        Self {
            view,
            waiting: Some(sockets),
            public: None,
            api: None,
            retired: Vec::new(),
        }
    }

    /// Serves the sockets from now on.
    pub(super) fn open(&mut self) {
        let Some(admin_sockets) = self.waiting.take() else {
            return;
        };
        let view = &self.view;
        self.public = admin_sockets.public.and_then(|(id, bound)| {
            tracing::info!(address = bound.address(), "serving metrics");
            let server = AdminServer::start(bound, Public(Arc::clone(view)));
            Some((id, started(server)?))
        });
        self.api = admin_sockets.api.and_then(|(id, bound)| {
            tracing::info!(address = bound.address(), "serving the admin interface");
            let api = Api {
                view: Arc::clone(view),
            };
            Some((id, started(AdminServer::start(bound, api))?))
        });
    }

    /// The sockets, for a successor.
    pub(super) fn hand_over(&self) -> Vec<(SocketId, Arc<ListeningSocket>)> {
        let servers = self.public.iter().chain(&self.api);
        servers
            .map(|(id, server)| (id.clone(), Arc::clone(&server.bound)))
            .collect()
    }

    /// Leaves the sockets to a successor; open connections are served to their end.
    pub(super) fn retire(&mut self) {
        let servers = [self.public.take(), self.api.take()];
        for (_, server) in servers.into_iter().flatten() {
            self.retired.push(server.retire());
        }
    }

    /// Waits until the last of these connections is closed.
    pub(super) async fn retired(&mut self) {
        for server in &mut self.retired {
            while server.join_next().await.is_some() {}
        }
    }

    /// The view that the servers show.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Publishes the configuration in effect.
    pub(super) fn publish(&self, reloader: &mut Reloader) {
        self.view.access.store(reloader.admin_access());
        self.view.tls.store(reloader.admin_tls());
        self.view.loaded.store(reloader.loaded());
        self.view.set_listening(reloader.listeners().listening());
    }
}

/// The server, if it started. Registering a listening socket fails only without memory.
fn started(server: io::Result<AdminServer>) -> Option<AdminServer> {
    let log = |error: &io::Error| tracing::error!(%error, "not serving the admin interface");
    server.inspect_err(log).ok()
}
