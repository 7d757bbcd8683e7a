//! What operators connect to: where it is served, and what it is told after every reload.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::StartError;
use super::reload::Reloader;
use crate::admin::api::Api;
use crate::admin::http::Server;
use crate::admin::order::{ORDERS, Order};
use crate::admin::public::Public;
use crate::admin::view::{Taken, View};
use crate::config::Loaded;
use crate::config::model::{Admin, Bind};

/// Where operators connect. Dropping it closes that.
#[derive(Debug)]
pub(super) struct Operators {
    view: Arc<View>,
    _public: Option<Server>,
    _api: Option<Server>,
}

/// What operators order, and where it is heard.
pub(super) fn orders() -> (mpsc::Sender<Order>, mpsc::Receiver<Order>) {
    mpsc::channel(ORDERS)
}

impl Operators {
    /// Serves `view` where `admin` says.
    ///
    /// # Errors
    /// [`StartError::Admin`].
    pub(super) fn serve(admin: &Admin, view: Arc<View>) -> Result<Self, StartError> {
        Ok(Self {
            _public: metrics(admin, &view)?,
            _api: api(admin, &view)?,
            view,
        })
    }

    /// What they see.
    pub(super) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// After a reload, or the first configuration.
    pub(super) fn tell(&self, reloader: &mut Reloader) {
        self.view.token.store(reloader.token());
        self.view.taken.store(reloader.taken_whole());
        self.view.listening.store(Arc::new(reloader.listening()));
    }
}

/// What operators are shown of a configuration.
pub(super) fn taken(loaded: &Loaded) -> Taken {
    let files = loaded.config.inputs.iter();
    Taken {
        files: files.map(|path| path.display().to_string()).collect(),
        at: SystemTime::now(),
        source: Arc::clone(&loaded.source),
        warnings: loaded.warnings.lines().collect(),
        at_next_start: Vec::new(),
    }
}

fn metrics(admin: &Admin, view: &Arc<View>) -> Result<Option<Server>, StartError> {
    let Some(bind) = &admin.metrics_bind else {
        return Ok(None);
    };
    let server = Server::start(bind, Public(Arc::clone(view)))
        .map_err(|error| StartError::Admin(bind.clone(), error))?;
    tracing::info!(address = server.address, "serving metrics");
    Ok(Some(server))
}

fn api(admin: &Admin, view: &Arc<View>) -> Result<Option<Server>, StartError> {
    let Some(bind) = &admin.bind else {
        return Ok(None);
    };
    let api = Api {
        view: Arc::clone(view),
        over_tcp: matches!(bind, Bind::Tcp(_)),
    };
    match Server::start(bind, api) {
        Ok(server) => {
            tracing::info!(address = server.address, "serving operators");
            Ok(Some(server))
        }
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
    }
}
