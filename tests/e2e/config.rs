//! The diagnostics of configurations, word for word.
//!
//! Each `config/bad/NAME.toml`, and each `config/odd/NAME.toml`, of which there are only warnings, has a
//! `NAME.stderr` next to it, the expected output of `tidegate check`. The same holds for
//! `config/cures/NAME.toml`, each of which has one error that people make. TIDEGATE_BLESS=1 rewrites
//! these files; read the difference before you commit it: somebody who has never seen tidegate must know
//! what to change.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::certificates::Authority;

struct Checked {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Checked {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn check(folder: &Path, arguments: &[&str]) -> Checked {
    command(folder, arguments).output().unwrap().into()
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .arg("check")
        .args(arguments)
        .current_dir(folder)
        .env("GOOD_PORT", "9000")
        .env_remove("NO_SUCH_VARIABLE");
    command
}

/// A file with one listener, one route and one upstream.
const GOOD: &str = "[listener.a]\nbind = [\"127.0.0.1:0\"]\n[[route]]\nupstream = \"a\"\n\
                    [upstream.a]\nendpoints = [\"127.0.0.1:${GOOD_PORT}\"]\n";

fn kept(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/e2e/config")
        .join(folder)
}

/// A folder with two certificates, so that their keys can be mixed up, and a copy of the file.
fn folder_with(file: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    let authority = Authority::new();
    authority.issue(folder.path(), "one", &["one.example.com"]);
    authority.issue(folder.path(), "two", &["two.example.com"]);
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let private = folder.path().join("encrypted.key");
    fs::write(&private, encrypted).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    let loose = folder.path().join("loose.key");
    fs::write(&loose, "no key\n").unwrap();
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).unwrap();
    let secret = folder.path().join("server.key");
    fs::write(&secret, "7".repeat(64)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.path().join("rooms.map"), "red game-1\n").unwrap();
    let wrong = "red game-1\nblue\ngreen 10.0.0.1:9000\nred game-1\na%2 game-1\n";
    fs::write(folder.path().join("wrong.map"), wrong).unwrap();
    fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    folder
}

#[test]
fn every_error_is_reported_word_for_word() {
    let files = reported_word_for_word("bad", |name, checked| {
        let expected = (Some(1), "");
        assert_eq!((checked.code, &*checked.stdout), expected, "{name}");
    });
    assert!(files >= 8, "{files}");
}

#[test]
fn every_warning_is_reported_word_for_word() {
    let files = reported_word_for_word("odd", |name, checked| {
        assert_eq!(checked.code, Some(0), "{name}");
        assert!(checked.stdout.starts_with(&format!("{name}: ok, ")));
    });
    assert!(files >= 3, "{files}");
}

/// Each is one diagnostic, or two: nothing is reported that merely follows from it.
#[test]
fn every_error_that_people_make_comes_with_its_cure() {
    let files = reported_word_for_word("cures", |name, checked| {
        let count = |level: &str| checked.stderr.matches(&format!("{level}[")).count();
        let (errors, warnings) = (count("error"), count("warning"));
        assert!(
            (1..=2).contains(&(errors + warnings)),
            "{name}: {}",
            checked.stderr
        );
        assert_eq!(checked.code, Some(i32::from(errors > 0)), "{name}");
    });
    assert!(files >= 80, "{files}");
}

/// Compares the output for each file in `folder` with the expected one. Returns the number of files.
fn reported_word_for_word(folder: &str, end: impl Fn(&str, &Checked)) -> usize {
    let bless = std::env::var_os("TIDEGATE_BLESS").is_some();
    let mut files: Vec<PathBuf> = fs::read_dir(kept(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    let mut different = Vec::new();
    for file in &files {
        let folder = folder_with(file);
        let name = file.file_name().unwrap().to_str().unwrap();
        let checked = check(folder.path(), &[name]);
        end(name, &checked);
        let expected = file.with_extension("stderr");
        if bless {
            fs::write(&expected, &checked.stderr).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != checked.stderr {
            different.push(format!("{name}:\n{}", checked.stderr));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    files.len()
}

#[test]
fn ten_faults_of_ten_kinds_are_ten_diagnostics() {
    let file = kept("bad").join("ten_faults.toml");
    let folder = folder_with(&file);
    let checked = check(folder.path(), &["ten_faults.toml", "--json"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(1), ""));
    let answer: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(answer["ok"], false);
    let diagnostics = answer["diagnostics"].as_array().unwrap();
    let codes: Vec<&str> = diagnostics
        .iter()
        .map(|each| each["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        [
            "syntax",
            "unknown-key",
            "type",
            "value",
            "file",
            "duplicate",
            "dangling",
            "unreachable",
            "missing",
            "conflict",
        ]
    );
    let source = fs::read_to_string(&file).unwrap();
    let marked: Vec<usize> = source
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("# fault"))
        .map(|(number, _)| number + 1)
        .collect();
    let lines: Vec<usize> = diagnostics
        .iter()
        .map(|each| each["line"].as_u64().unwrap().try_into().unwrap())
        .collect();
    assert_eq!(lines, marked, "each on its line");
}

#[test]
fn a_valid_file_is_ok_with_a_summary() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("good.toml"), GOOD).unwrap();
    let checked = check(folder.path(), &["good.toml"]);
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""));
    assert_eq!(
        checked.stdout,
        "good.toml: ok, 1 listener, 1 route, 1 upstream\n"
    );
    let checked = check(folder.path(), &["good.toml", "--json"]);
    let answer: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(answer, serde_json::json!({ "ok": true, "diagnostics": [] }));
}

#[test]
fn a_warning_does_not_make_the_check_fail() {
    let folder = TempDir::new().unwrap();
    let file = "[listener.a]\nbind = [\"127.0.0.1:0\"]\ntrusted_header = \"forwarded\"\n[[route]]\nupstream = \"a\"\n\
                [upstream.a]\nendpoints = [\"127.0.0.1:1\"]\n";
    fs::write(folder.path().join("early.toml"), file).unwrap();
    let checked = check(folder.path(), &["early.toml"]);
    assert_eq!(checked.code, Some(0));
    assert!(
        checked
            .stderr
            .contains("warning[no-effect]: `trusted_header` has no effect"),
        "{}",
        checked.stderr
    );
    assert!(
        checked.stdout.ends_with("1 upstream, 1 warning\n"),
        "{}",
        checked.stdout
    );
}

#[test]
fn a_missing_file_and_a_wrong_command_line_have_their_exit_codes() {
    let folder = TempDir::new().unwrap();
    let checked = check(folder.path(), &["none.toml"]);
    assert_eq!(checked.code, Some(1));
    assert!(
        checked.stderr.contains("cannot read the file"),
        "{}",
        checked.stderr
    );
    assert_eq!(check(folder.path(), &["--frobnicate"]).code, Some(2));
}

#[test]
fn standard_input_is_checked_like_a_file_in_the_working_directory() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("chat.endpoints"), "127.0.0.1:9000\n").unwrap();
    let piped = |text: &str| {
        let mut command = command(folder.path(), &["-"]);
        let command = command.stdin(Stdio::piped());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        Checked::from(child.wait_with_output().unwrap())
    };
    let text = GOOD.replace(
        "endpoints = [\"127.0.0.1:${GOOD_PORT}\"]",
        "endpoints_file = \"chat.endpoints\"",
    );
    let checked = piped(&text);
    assert_eq!((checked.code, &*checked.stderr), (Some(0), ""));
    assert_eq!(
        checked.stdout,
        "<stdin>: ok, 1 listener, 1 route, 1 upstream\n"
    );
    let checked = piped("[server]\nworkers = 0\n");
    assert_eq!(checked.code, Some(1));
    assert!(
        checked.stderr.contains("--> <stdin>:2:11"),
        "{}",
        checked.stderr
    );
}

#[test]
fn without_a_file_the_default_is_checked() {
    let folder = TempDir::new().unwrap();
    let checked = check(folder.path(), &[]);
    let said = checked.stdout + &checked.stderr;
    assert!(said.contains("/etc/tidegate/config.toml: "), "{said}");
}

/// The user without rights, which every Linux has.
const NOBODY: u32 = 65_534;

#[test]
fn a_key_that_cannot_be_read_says_whose_it_is_and_who_asks() {
    let file = kept("cures").join("port_443_without_tls.toml");
    let folder = folder_with(&file);
    let path = |name: &str| folder.path().join(name);
    let text = fs::read_to_string(&file).unwrap();
    let tls = "tls.certificates = [{ cert = \"one.pem\", key = \"one.key\" }]\n\n[[route]]";
    fs::write(path("tls.toml"), text.replace("[[route]]", tls)).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    mode("one.pem", 0o644);
    mode("tls.toml", 0o644);
    mode("one.key", 0o200);
    let mut command = command(folder.path(), &["tls.toml"]);
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // The superuser may read everything.
        command.uid(NOBODY).gid(NOBODY);
    }
    let checked = match command.output() {
        Ok(output) => Checked::from(output),
        // The build folder may be closed to other users.
        Err(error) if is_root => {
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(checked.code, Some(1));
    let line = checked.stderr.lines().next().unwrap();
    for part in [
        "cannot read `one.key`: permission denied: it belongs to user ",
        " with mode 0200, and this process runs as user ",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(
        checked.stderr.contains("help: chgrp "),
        "{}",
        checked.stderr
    );
}
