//! Any text as a configuration: everything wrong with it is told, and nothing panics.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // In a folder that is not there, so that no file is read.
    let path = Path::new("/nonexistent/tidegate.toml");
    if let Err(report) = tidegate::config::parse(text, path, &|_| None) {
        assert!(!report.render(false).is_empty());
    }
});
