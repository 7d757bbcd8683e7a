//! Runs the operator's program that publishes TXT records: without our environment and capabilities, with a
//! deadline, and with its output in the error if it fails.

use std::io::{self, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tokio::sync::oneshot;

use super::problem::one_line;

/// How long the program may take.
pub(super) const HOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// Output of the program that is kept, in bytes; the rest is read and dropped.
const MAX_OUTPUT: usize = 4096;

/// How often it is looked whether the program has ended, although it has written nothing.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// Why the program has not done its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HookError {
    /// It cannot be started.
    #[error("cannot run `{program}`: {error}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        error: String,
    },
    /// It has ended with a failure.
    #[error("`{program}` failed, {status}; its output: {output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it has written.
        output: String,
    },
    /// It was killed at the deadline.
    #[error("`{program}` was killed after {}; its output: {output}", humantime::format_duration(*limit))]
    TimedOut {
        /// The program.
        program: String,
        /// The time that it had.
        limit: Duration,
        /// What it has written.
        output: String,
    },
}

/// Runs a program, on a thread of its own, and waits until it has ended.
///
/// # Errors
/// [`HookError`].
pub(super) async fn run_hook(argv: Vec<String>, limit: Duration) -> Result<(), HookError> {
    let program = argv.first().cloned().unwrap_or_default();
    let start = |error: String| HookError::Start {
        program: program.clone(),
        error,
    };
    let (sender, result) = oneshot::channel();
    // The thread gives up its capabilities, so it does nothing else afterwards.
    let thread = thread::Builder::new().name("acme hook".to_owned());
    let spawned = thread.spawn(move || {
        // The caller may have stopped waiting.
        let _ = sender.send(run(&argv, limit));
    });
    spawned.map_err(|error| start(error.to_string()))?;
    match result.await {
        Ok(result) => result,
        Err(_) => Err(start("its thread has failed".to_owned())),
    }
}

fn run(argv: &[String], limit: Duration) -> Result<(), HookError> {
    let program = argv.first().cloned().unwrap_or_default();
    let failed = |error: io::Error| HookError::Start {
        program: program.clone(),
        error: error.to_string(),
    };
    drop_capabilities();
    let (mut reader, writer) = io::pipe().map_err(failed)?;
    let mut command = Command::new(&program);
    command
        .args(argv.get(1..).unwrap_or_default())
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(failed)?)
        .stderr(writer)
        // What it starts is killed with it.
        .process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    // The command has the ends that are written to: the pipe would never end.
    drop(command);
    let mut output = Vec::new();
    let ended = watch(&mut child, &mut reader, &mut output, Instant::now() + limit);
    let output = one_line(String::from_utf8_lossy(&output).trim());
    match ended.map_err(failed)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(HookError::Failed {
            program,
            status: status.to_string(),
            output,
        }),
        None => Err(HookError::TimedOut {
            program,
            limit,
            output,
        }),
    }
}

/// Reads the output until the program has ended, and kills it at the deadline; then there is no status.
fn watch(
    child: &mut Child,
    reader: &mut PipeReader,
    output: &mut Vec<u8>,
    deadline: Instant,
) -> io::Result<Option<ExitStatus>> {
    let mut is_open = true;
    loop {
        let status = child.try_wait()?;
        // After its end, what it has written is still there. Programs that it has left behind are not waited for.
        while is_open && is_readable(reader, status.is_none())? {
            let mut buffer = [0; 1024];
            let read = reader.read(&mut buffer)?;
            is_open = read > 0;
            let room = MAX_OUTPUT.saturating_sub(output.len());
            output.extend(buffer.iter().take(read.min(room)));
            if Instant::now() >= deadline {
                break;
            }
        }
        if status.is_some() {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            child.wait()?;
            return Ok(None);
        }
        if !is_open {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_readable(reader: &PipeReader, waits: bool) -> io::Result<bool> {
    let timeout = if waits { LOOK } else { Timespec::default() };
    let mut fds = [PollFd::new(reader, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives up the capabilities of this thread for what it starts: a service that may bind port 443 does not pass
/// that on. What the kernel does not allow is left as it is: a process without capabilities may not drop any.
fn drop_capabilities() {
    let _ = rustix::thread::clear_ambient_capability_set();
    // A program that root starts gets all that is in this set.
    for capability in CapabilitySet::all().iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let _ = rustix::thread::set_capabilities(None, none);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn script(folder: &Path, text: &str) -> Vec<String> {
        let path = folder.join("hook");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        [
            path.to_str().unwrap(),
            "present",
            "_acme-challenge.a.example.com",
            "value; $HOME",
        ]
        .map(str::to_owned)
        .into()
    }

    async fn ran(text: &str, limit: Duration) -> (Result<(), HookError>, String) {
        let folder = tempfile::tempdir().unwrap();
        // The hook is without capabilities: it cannot write where only root may.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let result = folder.path().join("result");
        let text = text.replace("RESULT", result.to_str().unwrap());
        let ended = run_hook(script(folder.path(), &text), limit).await;
        (ended, fs::read_to_string(result).unwrap_or_default())
    }

    #[tokio::test]
    async fn it_gets_its_arguments_and_nothing_else() {
        let (ended, result) = ran(
            r#"printf '%s\n' "$@" >RESULT; pwd >>RESULT; env | grep -v -e ^PATH= -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= >>RESULT; cat >>RESULT"#,
            HOOK_TIMEOUT,
        )
        .await;
        assert_eq!(ended, Ok(()));
        assert_eq!(
            result,
            "present\n_acme-challenge.a.example.com\nvalue; $HOME\n/\n"
        );
    }

    #[tokio::test]
    async fn it_has_no_capabilities() {
        let (ended, result) = ran(
            "grep -E 'Cap(Prm|Eff|Amb|Inh)' /proc/self/status >RESULT",
            HOOK_TIMEOUT,
        )
        .await;
        assert_eq!(ended, Ok(()));
        assert_eq!(result.lines().count(), 4);
        for line in result.lines() {
            assert!(line.ends_with("\t0000000000000000"), "{result}");
        }
    }

    #[tokio::test]
    async fn its_output_is_in_the_error() {
        let (ended, _) = ran("echo no such zone; echo really >&2; exit 3", HOOK_TIMEOUT).await;
        let error = ended.unwrap_err().to_string();
        assert!(
            error.ends_with("failed, exit status: 3; its output: no such zone really"),
            "{error}"
        );
        let (ended, _) = ran("head -c 1000000 /dev/zero; exit 1", HOOK_TIMEOUT).await;
        assert!(ended.unwrap_err().to_string().len() < 2 * MAX_OUTPUT);
        let missing = run_hook(vec!["/no/such/hook".to_owned()], HOOK_TIMEOUT)
            .await
            .unwrap_err();
        assert!(
            missing
                .to_string()
                .starts_with("cannot run `/no/such/hook`: "),
            "{missing}"
        );
    }

    #[tokio::test]
    async fn it_is_killed_at_the_deadline_with_what_it_has_started() {
        let (ended, result) = ran(
            "echo begun; (sleep 1000; echo late >>RESULT) & echo $! >RESULT; sleep 1000",
            Duration::from_millis(300),
        )
        .await;
        let error = ended.unwrap_err().to_string();
        assert!(
            error.ends_with("was killed after 300ms; its output: begun"),
            "{error}"
        );
        let status = Path::new("/proc").join(result.trim()).join("stat");
        // It is gone, or is only waited for by nobody.
        while fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z ")) {
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn what_it_leaves_behind_is_not_waited_for() {
        let (ended, _) = ran("sleep 5 & exit 0", HOOK_TIMEOUT).await;
        assert_eq!(ended, Ok(()));
    }
}
