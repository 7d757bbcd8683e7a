//! The commands in the documents exist, with the options that they are shown with.

use std::collections::HashMap;
use std::process::Command;

use super::{pages, read};

/// The help of a subcommand; `None` if there is no such subcommand.
fn help(subcommand: &str) -> Option<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let printed = program.args([subcommand, "--help"]).output().unwrap();
    let text = String::from_utf8(printed.stdout).unwrap();
    printed.status.success().then_some(text)
}

/// The commands in the fenced blocks of a page that are run in a shell, without their comments.
fn commands(page: &str) -> Vec<String> {
    let blocks = page.split("```").skip(1).step_by(2);
    let shell = blocks.filter(|block| block.starts_with("sh\n") || block.starts_with("console\n"));
    let lines = shell.flat_map(str::lines);
    lines
        .map(|line| line.strip_prefix("$ ").unwrap_or(line))
        .map(|line| line.strip_prefix("sudo ").unwrap_or(line))
        .filter_map(|line| line.strip_prefix("tidegate "))
        // The output of some commands begins with the name of the program and its version.
        .filter(|line| !line.starts_with(|c: char| c.is_ascii_digit()))
        .map(|line| line.split(" #").next().unwrap())
        .map(|line| line.split(" |").next().unwrap().to_owned())
        .collect()
}

#[test]
fn commands_have_the_options_that_they_are_shown_with() {
    let mut helps: HashMap<String, String> = HashMap::new();
    let mut options = 0;
    for name in pages() {
        for command in commands(&read(&name)) {
            let mut words = command.split_whitespace();
            let subcommand = words.next().unwrap();
            if subcommand.starts_with('-') {
                continue;
            }
            let help = helps
                .entry(subcommand.to_owned())
                .or_insert_with(|| help(subcommand).unwrap_or_else(|| panic!("{name}: {command}")));
            for option in words.filter(|word| word.starts_with("--")) {
                let option = option.split('=').next();
                let mut known = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                assert!(
                    known.any(|word| Some(word) == option),
                    "{name}: {command}\n{help}"
                );
                options += 1;
            }
        }
    }
    assert!(options > 30, "{options}");
}
