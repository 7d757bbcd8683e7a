//! Listeners that operators take out and put back.

use std::sync::Arc;

use super::{ListenError, Listeners};

/// Why that was not done.
#[derive(Debug, thiserror::Error)]
pub(in crate::server) enum SteerError {
    /// There is none of this name.
    #[error("there is no listener `{name}`; known: {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

impl Listeners {
    /// Takes a listener out, or puts it back. What is out is as if the configuration did not have it:
    /// what the kernel has queued is taken, its sockets are closed, and connections are told. Its
    /// tunnels stay.
    ///
    /// # Errors
    /// [`SteerError`]; nothing has changed then.
    pub(in crate::server) async fn set_drained(
        &mut self,
        name: &str,
        is_drained: bool,
    ) -> Result<(), SteerError> {
        let configured = self.configured.clone();
        let Some(listener) = configured.iter().find(|it| *it.name == *name) else {
            let known: Vec<&str> = configured.iter().map(|it| &*it.name).collect();
            return Err(SteerError::Unknown {
                name: name.to_owned(),
                known: known.join(", "),
            });
        };
        let before = self.drained.clone();
        match is_drained {
            true => self.drained.insert(Arc::clone(&listener.name)),
            false => self.drained.remove(name),
        };
        match self.plan(&configured) {
            Ok(plan) => {
                self.apply(plan).await;
                Ok(())
            }
            Err(error) => {
                self.drained = before;
                Err(error.into())
            }
        }
    }

    /// Whom operators have taken out, for another process.
    pub(in crate::server) fn hand_over_drained(&self) -> Vec<String> {
        self.drained.iter().map(ToString::to_string).collect()
    }
}
