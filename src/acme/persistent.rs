//! Tasks that must not end by a panic: without its keeper, a certificate expires weeks later.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::sleep;

use super::errors::AcmeError;
use super::renewal::{FailureKind, pause};
use crate::vital::panic_message;

/// Runs what `begin` begins until it ends. If it panics, `clear` puts in order what it has left behind, and it
/// begins again after a pause that grows: it may panic at the same place, after it has used up an order.
pub(super) async fn persistent<Work, Clear>(
    what: &str,
    mut stop: watch::Receiver<bool>,
    mut begin: impl FnMut() -> Work,
    mut clear: impl FnMut(String) -> Clear,
) where
    Work: Future<Output = ()>,
    Clear: Future<Output = ()>,
{
    for panics in 1.. {
        let Err(panic) = AssertUnwindSafe(begin()).catch_unwind().await else {
            return;
        };
        let rest = pause(panics, FailureKind::Refused, fastrand::u64(..));
        let panic = panic_message(&*panic).to_owned();
        let again = humantime::format_duration(Duration::from_secs(rest.as_secs()));
        tracing::error!(
            what,
            panic,
            %again,
            "a task that keeps certificates has panicked; it starts again after a pause"
        );
        if AssertUnwindSafe(clear(panic)).catch_unwind().await.is_err() {
            tracing::error!(
                what,
                "what a task that has panicked has left behind is not cleared"
            );
        }
        tokio::select! {
            () = sleep(rest) => {}
            // An error means that the sender is gone.
            _ = stop.wait_for(|is_stopped| *is_stopped) => return,
        }
    }
}

/// Makes a failure of a panic in an order.
pub(super) async fn without_panic<T>(
    certificate: &str,
    order: impl Future<Output = Result<T, AcmeError>>,
) -> Result<T, AcmeError> {
    match AssertUnwindSafe(order).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => {
            let panic = panic_message(&*panic).to_owned();
            tracing::error!(certificate, panic, "an order has panicked");
            Err(AcmeError::Panicked(panic))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_cleared_up_after_and_begins_again() {
        let (_sender, stop) = watch::channel(false);
        let [begun, cleared] = [AtomicU32::new(0), AtomicU32::new(0)];
        let begin = || {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            async move { assert!(number == 2, "on purpose") }
        };
        let clear = |panic: String| {
            assert_eq!(panic, "on purpose");
            cleared.fetch_add(1, Ordering::Relaxed);
            // Nor does this end it.
            async { panic!("again") }
        };
        let started = tokio::time::Instant::now();
        persistent("test", stop, begin, clear).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        assert_eq!(cleared.load(Ordering::Relaxed), 2);
        assert!(started.elapsed() >= Duration::from_secs(2 * 60 + 6 * 60));
    }

    #[tokio::test]
    async fn it_does_not_begin_again_if_it_is_stopped() {
        let (sender, stop) = watch::channel(false);
        let mut sender = Some(sender);
        let clear = |_| {
            drop(sender.take());
            async {}
        };
        persistent("test", stop, || async { panic!("on purpose") }, clear).await;
    }

    #[tokio::test]
    async fn an_order_that_panics_has_failed() {
        let order = async { Err(AcmeError::Key(format!("{}", 1 / u8::from(false)))) };
        let result: Result<(), AcmeError> = without_panic("a.example.com", order).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), FailureKind::Refused);
        assert!(error.to_string().contains("divide by zero"), "{error}");
    }
}
