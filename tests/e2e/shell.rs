//! Completions, the version and manual pages.

use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn tidegate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .output()
        .unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = tidegate(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The commands in the output of `--help`.
fn commands() -> Vec<String> {
    let help = printed(&["--help"]);
    let list = help.split("Commands:\n").nth(1).unwrap();
    let names = list
        .lines()
        .map_while(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    let names: Vec<String> = names.map(str::to_owned).collect();
    assert!(names.len() > 5, "{help}");
    names
}

/// Whether the machine has this program.
fn is_there(program: &str) -> bool {
    let silent = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    silent.is_ok()
}

#[test]
fn completions_cover_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for name in commands() {
            assert!(script.contains(&name), "{shell}: {name}");
        }
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tidegate.bash");
    std::fs::write(&path, printed(&["completions", "bash"])).unwrap();
    let parsed = Command::new("bash").arg("-n").arg(&path).output().unwrap();
    assert!(parsed.status.success(), "{parsed:?}");
    assert_eq!(String::from_utf8_lossy(&parsed.stderr), "");
    assert_eq!(tidegate(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn the_verbose_version_shows_how_it_was_built() {
    let short = format!("tidegate {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed(&["--version"]), short);
    assert_eq!(printed(&["-V"]), short);
    for order in [["--version", "--verbose"], ["--verbose", "--version"]] {
        let whole = printed(&order);
        let parts = whole.strip_prefix(&short).unwrap();
        for part in [
            format!("target   {}-", std::env::consts::ARCH),
            "tls      rustls with aws-lc-rs\n".to_owned(),
            "tunnels  copy\n".to_owned(),
            "crate    rustls ".to_owned(),
        ] {
            assert!(parts.contains(&part), "{part}: {whole}");
        }
    }
    for wrong in [&["--verbose"] as &[&str], &["--version", "schema"], &["--"]] {
        assert_eq!(tidegate(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn every_command_has_a_manual_page_and_the_first_lists_them() {
    let first = printed(&["man"]);
    for name in commands() {
        assert!(
            first.contains(&format!("tidegate\\-{name}(1)")),
            "{name}: {first}"
        );
    }
    for heading in [".SH \"EXIT STATUS\"\n.TP\n", ".SH \"SIGNALS TO "] {
        assert!(first.contains(heading), "{first}");
    }
    let folder = TempDir::new().unwrap();
    let out = folder.path().to_str().unwrap();
    printed(&["man", "--out", out]);
    let names = commands();
    let pages = names.iter().map(|name| format!("tidegate-{name}.1"));
    let mut expected: Vec<String> = pages.chain(["tidegate.1".to_owned()]).collect();
    let files = std::fs::read_dir(out).unwrap();
    let mut found: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    if is_there("groff") {
        for name in found {
            let page = folder.path().join(name);
            // All warnings, without the page itself.
            let checked = Command::new("groff")
                .args(["-k", "-man", "-ww", "-z"])
                .arg(page)
                .output()
                .unwrap();
            assert!(checked.status.success(), "{checked:?}");
            assert_eq!(String::from_utf8_lossy(&checked.stderr), "");
        }
    }
    let nowhere = folder.path().join("none");
    let failed = tidegate(&["man", "--out", nowhere.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("none"));
}
