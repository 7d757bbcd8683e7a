//! Network namespaces for tests, where creating them is allowed: one for the whole test, and in it a
//! link to a second one, which can be taken down.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// `sh` in a new network namespace, with mounts of its own.
const OWN: [&str; 7] = [
    "--user",
    "--map-root-user",
    "--net",
    "--mount",
    "--",
    "sh",
    "-c",
];

/// Runs an ignored test in a network namespace of its own, after the shell commands `setup`. Without
/// the permission to create one, prints that the test did not run.
pub(crate) fn run_in_own(setup: &str, test: &str) {
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        let program = std::env::current_exe().unwrap();
        command.args(OWN).arg(script).arg(program).output()
    };
    let refused = match run(setup) {
        Ok(done) if done.status.success() => None,
        Ok(done) => Some(String::from_utf8_lossy(&done.stderr).into_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = refused {
        super::not_run(test, &format!("no network of its own: {why}"));
        return;
    }
    let inside = format!("{setup} && exec \"$0\" --exact {test} --ignored");
    let done = run(&inside).unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
}

/// The `setup` that a test with a [`Link`] needs: it fails where links cannot be created.
pub(crate) const LINKS: &str = "ip link set lo up && \
    ip link add near type veth peer name far && ip link delete near && unshare --net true";

/// A link to a second network namespace, which stands for another machine.
pub(crate) struct Link {
    beyond: File,
}

impl Link {
    /// The addresses of its two ends.
    pub(crate) const NEAR: &str = "192.0.2.1";
    pub(crate) const FAR: &str = "192.0.2.2";

    pub(crate) fn new() -> Self {
        let beyond = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let link = Self { beyond };
        let network = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            link.beyond.as_raw_fd()
        );
        ip("link add near type veth peer name far");
        ip(&format!("link set far netns {network}"));
        ip(&format!("address add {}/24 dev near", Self::NEAR));
        ip("link set near up");
        link.beyond(|| {
            ip(&format!("address add {}/24 dev far", Self::FAR));
            ip("link set far up");
        });
        link
    }

    /// Runs `work` at the far end. Sockets that it creates belong to that namespace.
    pub(crate) fn beyond<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.beyond, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// Drops every packet from now on, without an error at either end.
    pub(crate) fn take_down(&self) {
        self.beyond(|| ip("link set far down"));
    }
}

/// Runs `work` on a thread of its own, because a thread keeps the namespace that it enters.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {words}: {said}");
}
