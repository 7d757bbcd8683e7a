//! A periodic task of the control runtime, which ends with its handle.

use tokio::task::AbortHandle;

/// The handle of a task; dropping it ends the task.
#[derive(Debug)]
pub struct PeriodicTask(AbortHandle);

impl PeriodicTask {
    /// Starts a task on the current runtime.
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
