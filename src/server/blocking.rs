//! Work that blocks, on a thread of its own.

/// Runs `work` on a blocking thread, so that the control runtime goes on meanwhile. A panic in it goes on
/// here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
