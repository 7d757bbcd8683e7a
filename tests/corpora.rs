//! The fuzz corpora as ordinary tests: every check in `fuzz/checks` runs on its inputs in
//! `fuzz/corpus`.
#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

#[path = "../fuzz/checks/answer.rs"]
mod answer;
#[path = "../fuzz/checks/config.rs"]
mod config;
#[path = "../fuzz/checks/endpoints_file.rs"]
mod endpoints_file;
#[path = "../fuzz/checks/forwarded.rs"]
mod forwarded;
#[path = "../fuzz/checks/forwarder.rs"]
mod forwarder;
#[path = "../fuzz/checks/frame.rs"]
mod frame;
#[path = "../fuzz/checks/handshake.rs"]
mod handshake;
#[path = "../fuzz/checks/proxy_header.rs"]
mod proxy_header;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

type Check = fn(&[u8]);

const CHECKS: [(&str, Check); 8] = [
    ("answer", answer::check),
    ("config", config::check),
    ("endpoints_file", endpoints_file::check),
    ("forwarded", forwarded::check),
    ("forwarder", forwarder::check),
    ("frame", frame::check),
    ("handshake", handshake::check),
    ("proxy_header", proxy_header::check),
];

fn fuzz(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(folder)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn every_corpus_passes() {
    for (name, check) in CHECKS {
        let kept = entries(&fuzz("corpus").join(name));
        assert!(kept.len() >= 10, "{name} has {} files", kept.len());
        for path in kept {
            let bytes = fs::read(&path).unwrap();
            let passed = std::panic::catch_unwind(|| check(&bytes));
            assert!(passed.is_ok(), "{}", path.display());
        }
    }
}

/// Without this, a target without a corpus, or a corpus without a target, would not be noticed.
#[test]
fn every_target_has_its_corpus() {
    let known: BTreeSet<String> = CHECKS.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in ["checks", "corpus", "fuzz_targets"] {
        let found: BTreeSet<String> = entries(&fuzz(folder))
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, known, "{folder}");
    }
}
