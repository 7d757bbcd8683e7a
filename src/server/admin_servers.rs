//! What operators connect to: where it is served, and what it is told after every reload.

use std::io;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::errors::StartError;
use super::reload::Reloader;
use crate::admin::api::Api;
use crate::admin::http::AdminServer;
use crate::admin::public::Public;
use crate::admin::view::View;
use crate::config::model::{Admin, Bind};
use crate::net::inherited::{InheritedSockets, Purpose, SocketId};
use crate::net::listen::ListeningSocket;

/// Where operators connect. Dropping it closes that.
#[derive(Debug)]
pub(super) struct AdminServers {
    view: Arc<View>,
    public: Option<(SocketId, AdminServer)>,
    api: Option<(SocketId, AdminServer)>,
    /// What is still answered where another process serves now.
    retired: Vec<JoinSet<()>>,
}

/// The sockets for that, before anybody is served.
#[derive(Debug)]
pub(super) struct AdminSockets {
    public: Option<(SocketId, ListeningSocket)>,
    api: Option<(SocketId, ListeningSocket)>,
}

impl AdminSockets {
    /// Binds them, unless they are inherited.
    ///
    /// # Errors
    /// [`StartError::Admin`].
    pub(super) fn open(
        admin: &Admin,
        inherited: &mut InheritedSockets,
    ) -> Result<Self, StartError> {
        let mut bound = |bind: &Bind, purpose| {
            let id = SocketId::new(purpose, bind);
            let there = inherited.take(&id, bind)?.into_iter().next();
            let bound = there.map_or_else(|| ListeningSocket::bind(bind), Ok)?;
            Ok((id, bound))
        };
        let public = admin.metrics_bind.as_ref().map(|bind| {
            bound(bind, Purpose::Metrics).map_err(|error| StartError::Admin(bind.clone(), error))
        });
        let api = admin.bind.as_ref().map(|bind| match bound(bind, Purpose::Admin) {
            Ok(bound) => Ok(Some(bound)),
            // Nobody has asked for it: where there is no such folder, it is done without.
            Err(error) if admin.is_default && error.kind() == io::ErrorKind::NotFound => {
                tracing::info!(address = %bind, %error, "not serving operators: `admin.bind` is only its default");
                Ok(None)
            }
            Err(error) if admin.is_default => {
                let why = "another process may be there: give each an `admin.bind` of its own";
                tracing::warn!(address = %bind, %error, why, "not serving operators");
                Ok(None)
            }
            Err(error) => Err(StartError::Admin(bind.clone(), error)),
        });
        Ok(Self {
            public: public.transpose()?,
            api: api.transpose()?.flatten(),
        })
    }
}

impl AdminServers {
    /// Serves `view` there.
    pub(super) fn serve(admin_sockets: AdminSockets, view: Arc<View>) -> Self {
        let public = admin_sockets.public.and_then(|(id, bound)| {
            tracing::info!(address = bound.address(), "serving metrics");
            let server = AdminServer::start(bound, Public(Arc::clone(&view)));
            Some((id, started(server)?))
        });
        let api = admin_sockets.api.and_then(|(id, bound)| {
            tracing::info!(address = bound.address(), "serving operators");
            let api = Api {
                view: Arc::clone(&view),
                over_tcp: matches!(bound, ListeningSocket::Tcp(..)),
            };
            Some((id, started(AdminServer::start(bound, api))?))
        });
        Self {
            view,
            public,
            api,
            retired: Vec::new(),
        }
    }

    /// The sockets, for another process.
    pub(super) fn hand_over(&self) -> Vec<(SocketId, Arc<ListeningSocket>)> {
        let servers = self.public.iter().chain(&self.api);
        servers
            .map(|(id, server)| (id.clone(), Arc::clone(&server.bound)))
            .collect()
    }

    /// Leaves them to another process; who is connected is served to the end.
    pub(super) fn retire(&mut self) {
        let servers = [self.public.take(), self.api.take()];
        for (_, server) in servers.into_iter().flatten() {
            self.retired.push(server.retire());
        }
    }

    /// Waits until nobody is answered there any more.
    pub(super) async fn retired(&mut self) {
        for server in &mut self.retired {
            while server.join_next().await.is_some() {}
        }
    }

    /// What they see.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// After a reload, or the first configuration.
    pub(super) fn publish(&self, reloader: &mut Reloader) {
        self.view.token.store(reloader.token());
        self.view.loaded.store(reloader.loaded());
        self.view
            .listening
            .store(Arc::new(reloader.listeners().listening()));
    }
}

/// Its event queue takes a socket that listens, unless there is no memory left.
fn started(server: io::Result<AdminServer>) -> Option<AdminServer> {
    let told = |error: &io::Error| tracing::error!(%error, "not serving operators");
    server.inspect_err(told).ok()
}
