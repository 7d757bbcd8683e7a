//! Tasks of the demo.

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// Runs a task until it is aborted or the demo ends: no drain waits for it.
pub(super) fn background(task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
    Handle::current().spawn(task).abort_handle()
}
