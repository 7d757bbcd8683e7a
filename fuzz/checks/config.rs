//! Any text as a configuration: everything wrong with it is told, and nothing panics.

use std::path::Path;

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // In a folder that is not there, so that no file is read.
    let path = Path::new("/nonexistent/tidegate.toml");
    if let Err(report) = tidegate::config::parse(text, path, &|_| None) {
        assert!(!report.render(false).is_empty());
    }
}
