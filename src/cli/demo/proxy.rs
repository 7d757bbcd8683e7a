//! The tidegate of the demo: its supervisor, and what it logs.

use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cli::err;

/// How long the supervisor may take: twice as long as it gives tidegate.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A running tidegate, with its supervisor. It ends when this is dropped, also if the process is killed.
pub(super) struct DemoProxy {
    /// The supervisor ends everything when this is closed.
    lifeline: Option<ChildStdin>,
    /// Resolves when the supervisor has ended.
    end: oneshot::Receiver<()>,
    log: Arc<DemoLog>,
}

/// Log lines. Those of the start matter only if it fails; later ones are shown.
#[derive(Default)]
struct DemoLog(Mutex<LogLines>);

#[derive(Default)]
struct LogLines {
    is_ready: bool,
    of_start: String,
}

impl DemoProxy {
    /// Starts tidegate with the files in this folder.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let mut supervisor = Command::new(std::env::current_exe()?)
            .args(["demo", "--supervise"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C reaches the demo alone.
            .process_group(0)
            .spawn()?;
        let lifeline = supervisor.stdin.take();
        let lines = supervisor.stderr.take();
        let log = Arc::<DemoLog>::default();
        let (ended, end) = oneshot::channel();
        let reader = Arc::clone(&log);
        thread::Builder::new()
            .name("demo-log".into())
            .spawn(move || {
                follow(lines, &reader, &mut supervisor);
                let _ = ended.send(());
            })?;
        Ok(Self { lifeline, end, log })
    }

    /// Waits until it has ended.
    pub(super) async fn ended(&mut self) {
        // An error means that the thread is gone.
        let _ = (&mut self.end).await;
    }

    /// Why it has ended before it was ready: what it logged.
    pub(super) fn failure(&self) -> io::Error {
        let lines = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        io::Error::other(format!(
            "tidegate has not started\n{}",
            lines.of_start.trim_end()
        ))
    }

    /// Stops it in order.
    pub(super) async fn stop(mut self) {
        self.lifeline = None;
        // Without a supervisor, because someone has killed it, nothing ends the processes.
        let _ = timeout(STOP_TIMEOUT, self.ended()).await;
    }
}

/// Reads log lines until all processes have ended.
fn follow(lines: Option<ChildStderr>, log: &DemoLog, supervisor: &mut Child) {
    let lines = lines.into_iter().flat_map(|it| BufReader::new(it).lines());
    for line in lines.map_while(Result::ok) {
        log.add(&line);
    }
    let _ = supervisor.wait();
}

impl DemoLog {
    fn add(&self, line: &str) {
        // As the access log is off, so are other lines about single sessions: while no backend runs, dozens of
        // clients try again and again. The lines about endpoints say what there is to know.
        if line.contains(" session=") {
            return;
        }
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.is_ready {
            true => err(&format!("{line}\n")),
            false => lines.of_start.extend([line, "\n"]),
        }
        // The last line of a start. It arrives some time after the admin interface has responded.
        lines.is_ready |= line.contains(" ready generation=");
    }
}
