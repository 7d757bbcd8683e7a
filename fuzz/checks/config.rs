//! Any text is checked as a configuration without a panic, and an invalid one gets diagnostics. After the line
//! `#---`, each part is an included file.

use std::path::Path;

use tidegate::config;
use tidegate::config::sources::{SourceText, Sources};

/// What separates the files.
const SEPARATOR: &str = "\n#---\n";

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // In a folder that does not exist, so that no file is read.
    let path = Path::new("/nonexistent/tidegate.toml");
    let loaded = match text.split_once(SEPARATOR) {
        None => config::parse(text, path, &|_| None),
        Some((main, included)) => {
            let main = format!("include = \"*.toml\"\n{main}");
            let mut sources = Sources::new(SourceText::new(path, &main));
            for (number, text) in included.split(SEPARATOR).enumerate() {
                let name = format!("/nonexistent/{number:04}.toml");
                sources.add(SourceText::new(Path::new(&name), text));
            }
            config::parse_again(&sources)
        }
    };
    if let Err(report) = loaded {
        assert!(!report.render(false).is_empty());
    }
}
