//! The admin socket that no configuration names: where the process puts it, and which one commands use.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::not_run;
use crate::harness::proxy::simple;

/// A user without any rights.
const NOBODY: u32 = 65_534;

/// Starts the program, as the user that `$AS` switches to, and passes on its log until it is ready.
const START: &str = r#"
    mkfifo log
    $AS "$T" run --config config.toml 2>log & pid=$!
    exec 3<log
    while read -r line <&3; do
        echo "$line"
        case $line in *ready*) break ;; esac
    done
    tidegate() { "$T" "$@" 2>&1; echo "exit code $?"; }
    trap 'kill $pid; wait $pid' EXIT
"#;

/// A folder with the program and a configuration without `[admin]`, which are everybody's.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = SocketAddr::from(([127, 0, 0, 1], 1));
    fs::write(folder.path().join("config.toml"), simple(&[endpoint])).unwrap();
    fs::copy(
        env!("CARGO_BIN_EXE_tidegate"),
        folder.path().join("tidegate"),
    )
    .unwrap();
    folder
}

/// Runs a script in a folder, with a `/run` of its own that `mount` makes. `None` if the machine allows no such
/// thing: then a line says so.
fn run_in(folder: &TempDir, unshare: &[&str], mount: &str, script: &str) -> Option<String> {
    let shell = |script: &str| -> std::io::Result<Output> {
        let mut command = Command::new("unshare");
        command
            .args(unshare)
            .args(["--mount", "--", "sh", "-c", script]);
        command
            .current_dir(folder.path())
            .env("T", folder.path().join("tidegate"))
            .env("XDG_RUNTIME_DIR", folder.path().join("user"))
            .env_remove("TIDEGATE_ADMIN")
            .env_remove("NOTIFY_SOCKET");
        command.output()
    };
    match shell(&format!("{mount} /run")) {
        Ok(done) if done.status.success() => {}
        refused => {
            not_run("a test of the admin socket", &format!("{refused:?}"));
            return None;
        }
    }
    let done = shell(&format!("{mount} /run\n{script}")).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(text(&done.stdout) + &text(&done.stderr))
}

const AS_ROOT: [&str; 2] = ["--user", "--map-root-user"];
const EMPTY: &str = "mount -t tmpfs -o mode=755 none";
const READ_ONLY: &str = "mount -t tmpfs -o ro none";

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part} in:\n{text}");
    }
}

#[test]
fn the_folder_of_the_socket_is_made_where_that_is_possible() {
    let script = format!("umask 077\n{START}\nstat -c 'folder %a' /run/tidegate\ntidegate status");
    let Some(text) = run_in(&folder(), &AS_ROOT, EMPTY, &script) else {
        return;
    };
    let address = "address=unix:/run/tidegate/admin.sock";
    has(&text, &[address, "folder 755", "is serving", "exit code 0"]);
}

#[test]
fn the_folder_of_the_user_is_used_where_run_is_not_writable() {
    let script = format!("mkdir user\n{START}\nstat -c 'folder %a' user/tidegate\ntidegate status");
    let folder = folder();
    let Some(text) = run_in(&folder, &AS_ROOT, READ_ONLY, &script) else {
        return;
    };
    let socket = folder.path().join("user/tidegate/admin.sock");
    let address = format!("address=unix:{}", socket.display());
    has(
        &text,
        &[&address, "folder 700", "is serving", "exit code 0"],
    );
}

#[test]
fn without_any_place_a_warning_has_the_remedy_and_commands_name_the_places() {
    let folder = folder();
    let script = format!("{START}\ntidegate status\nunset XDG_RUNTIME_DIR\ntidegate status");
    let Some(text) = run_in(&folder, &AS_ROOT, READ_ONLY, &script) else {
        return;
    };
    let warning = text.lines().find(|line| line.contains("WARN not serving"));
    has(
        warning.unwrap_or(&text),
        &[
            "RuntimeDirectory=tidegate",
            "XDG_RUNTIME_DIR",
            "`admin.bind`",
        ],
    );
    let own = folder.path().join("user/tidegate/admin.sock");
    let none =
        "error: no tidegate responds at unix:/run/tidegate/admin.sock: there is no such socket";
    let both = format!("{none}, nor at unix:{}: there", own.display());
    has(&text, &[&both, &format!("{none}\n"), "exit code 6"]);
}

/// The process belongs to a user without rights, the commands to root, and to another user.
#[test]
fn commands_talk_only_to_a_process_of_root_or_of_their_user() {
    if !rustix::process::geteuid().is_root() {
        not_run("a test of the owner of the admin socket", "it needs root");
        return;
    }
    let start = format!("AS='setpriv --reuid 65534 --regid 65534 --clear-groups'\n{START}");
    let made = || {
        let folder = folder();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        folder
    };
    let folder = made();
    let script = format!(
        "$AS mkdir user && chown 65534 user\n{start}\ntidegate status\n\
         TIDEGATE_ADMIN=unix:user/tidegate/admin.sock tidegate status\nT=\"$AS $T\"\n$T status\n"
    );
    let Some(text) = run_in(&folder, &[], READ_ONLY, &script) else {
        return;
    };
    let refused = format!(
        "error: the process at unix:{}/user/tidegate/admin.sock runs as user 65534, which is neither root nor you",
        folder.path().display()
    );
    has(&text, &[&refused, "exit code 6", "exit code 0"]);
    // It serves two: the one who names its socket, and its own user.
    assert_eq!(text.matches("is serving").count(), 2, "{text}");

    // A folder that root has given to it is as good as root's.
    let script = format!(
        "mkdir /run/tidegate && chown 65534 /run/tidegate\n{start}\ntidegate status\n\
         T=\"setpriv --reuid 1 --regid 1 --clear-groups $T\"\nchmod 755 .\n$T status 2>&1\necho \"exit code $?\""
    );
    let folder = made();
    let Some(text) = run_in(&folder, &[], EMPTY, &script) else {
        return;
    };
    has(
        &text,
        &[
            "is serving",
            "exit code 0",
            "error: no permission to connect to unix:/run/tidegate/admin.sock\n",
            "the owner of the socket (user 65534)",
            "exit code 6",
        ],
    );
    assert!(!text.contains("check that it is running"), "{text}");
}
