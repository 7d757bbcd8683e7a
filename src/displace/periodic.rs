//! A task of the control runtime that looks again and again, for as long as its handle lives.

use tokio::task::AbortHandle;

/// The task; dropping this ends it.
#[derive(Debug)]
pub struct PeriodicTask(AbortHandle);

impl PeriodicTask {
    /// Runs this on the current runtime.
    pub fn spawn(looking: impl Future<Output = ()> + Send + 'static) -> Self {
        let control = tokio::runtime::Handle::current();
        Self(control.spawn(looking).abort_handle())
    }
}

impl Drop for PeriodicTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
