//! Parts that the process cannot do without. If one of them panics, the process ends: a worker that is gone
//! would leave its sockets open, and connections to them would hang.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

use futures_util::FutureExt;

/// The exit code of the process after such a panic.
pub const EXIT_CODE: i32 = 8;

/// Writes what is left of the logs.
type Flush = Box<dyn Fn() + Send + Sync>;

static FLUSH: OnceLock<Flush> = OnceLock::new();

/// Sets what writes the last lines of the logs before the process ends. Only the first call counts.
pub fn flush_logs_with(flush: impl Fn() + Send + Sync + 'static) {
    let _ = FLUSH.set(Box::new(flush));
}

/// Runs `work`, which belongs to the part of the process with this name. If it panics, the process ends with
/// [`EXIT_CODE`].
pub async fn vital<T>(part: &str, work: impl Future<Output = T>) -> T {
    // Caught here rather than where the thread ends: until then the thread would close connections one by one.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => end(part, panic_message(&*panic)),
    }
}

/// What a panic says.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message")
}

#[expect(
    clippy::exit,
    reason = "what is left cannot serve, and must not look as if it could"
)]
fn end(part: &str, panic: &str) -> ! {
    tracing::error!(
        part,
        panic,
        "a part that the process cannot do without has panicked; the process ends"
    );
    if let Some(flush) = FLUSH.get() {
        flush();
    }
    std::process::exit(EXIT_CODE)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::process::Command;

    use super::*;

    /// Set for the child process of the test below.
    const IS_CHILD: &str = "TIDEGATE_TEST_PANICS";

    #[tokio::test]
    async fn work_that_does_not_panic_is_not_disturbed() {
        assert_eq!(vital("worker", async { 7 }).await, 7);
    }

    /// The panicking task runs in a process of its own: this test, started a second time.
    #[test]
    fn a_panic_ends_the_process_and_is_logged() {
        if std::env::var_os(IS_CHILD).is_some() {
            let _ = tracing_subscriber::fmt().with_writer(io::stderr).try_init();
            flush_logs_with(|| tracing::info!("flushed"));
            let worker = std::thread::spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                runtime.unwrap().block_on(vital("worker-1", async {
                    tokio::task::yield_now().await;
                    panic!("on {}", "purpose");
                }))
            });
            let _ = worker.join();
            unreachable!("the process has not ended");
        }
        let name = "vital::tests::a_panic_ends_the_process_and_is_logged";
        let output = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(IS_CHILD, "yes")
            .output()
            .unwrap();
        let logged = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_CODE), "{logged}");
        for part in ["the process ends", "worker-1", "on purpose", "flushed"] {
            assert!(logged.contains(part), "{part} in {logged}");
        }
    }
}
