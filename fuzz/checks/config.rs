//! Any text is checked as a configuration without a panic, and an invalid one gets diagnostics.

use std::path::Path;

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // In a folder that does not exist, so that no file is read.
    let path = Path::new("/nonexistent/tidegate.toml");
    if let Err(report) = tidegate::config::parse(text, path, &|_| None) {
        assert!(!report.render(false).is_empty());
    }
}
