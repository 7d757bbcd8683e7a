//! `tidegate check`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use tidegate::config::diagnostic::Severity;
use tidegate::config::{self, Report};

use super::{ExitStatus, colour, err, out};

/// What stands for standard input on the command line, and what reports call it.
const STDIN: (&str, &str) = ("-", "<stdin>");

/// Reports everything that is wrong with a file.
pub(super) fn check(path: &Path, as_json: bool) -> ExitCode {
    let (dash, stdin) = STDIN;
    let (path, loaded) = match path == Path::new(dash) {
        true => (
            Path::new(stdin),
            config::load_stream(std::io::stdin().lock(), stdin),
        ),
        false => (path, config::load_with_folders(path)),
    };
    let report = match &loaded {
        Ok(loaded) => &loaded.warnings,
        Err(report) => report,
    };
    if as_json {
        let answer = json!({ "ok": loaded.is_ok(), "diagnostics": report.to_json() });
        out(&format!("{answer:#}\n"));
    } else {
        match &loaded {
            Ok(loaded) => {
                err(&report.render(colour()));
                out(&format!("{}: ok, {}\n", path.display(), summary(loaded)));
            }
            Err(report) => return refuse(path, report),
        }
    }
    if loaded.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitStatus::Config.into()
    }
}

/// Reports what is wrong with a file that is not valid.
pub(super) fn refuse(path: &Path, report: &Report) -> ExitCode {
    err(&report.render(colour()));
    err(&format!("{}: {}\n", path.display(), verdict(report)));
    ExitStatus::Config.into()
}

/// The parts of a valid file, in numbers.
fn summary(loaded: &config::Loaded) -> String {
    let config = &loaded.config;
    let mut parts = vec![
        plural(config.listeners.len(), "listener"),
        plural(config.routes.len(), "route"),
        plural(config.upstreams.len(), "upstream"),
    ];
    let included = loaded.sources.included().len();
    if included > 0 {
        parts.push(plural(included, "included file"));
    }
    let warnings = loaded.warnings.count(Severity::Warning);
    if warnings > 0 {
        parts.push(plural(warnings, "warning"));
    }
    parts.join(", ")
}

/// The problems of a file, in numbers.
fn verdict(report: &Report) -> String {
    let errors = plural(report.count(Severity::Error), "error");
    match report.count(Severity::Warning) {
        0 => errors,
        warnings => format!("{errors}, {}", plural(warnings, "warning")),
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
