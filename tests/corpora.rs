//! The fuzz corpora as ordinary tests: every check in `fuzz/checks` runs on its inputs in
//! `fuzz/corpus`.
#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/long.rs"]
mod long;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The length of the long inputs in the corpora: as long as a head may be by default.
const LONG: usize = 16 << 10;

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
    for (name, check) in checks::ALL {
        let kept = entries(&fuzz("corpus").join(name));
        assert!(kept.len() >= 10, "{name} has {} files", kept.len());
        for path in kept {
            let bytes = fs::read(&path).unwrap();
            let passed = std::panic::catch_unwind(|| check(&bytes));
            assert!(passed.is_ok(), "{}", path.display());
        }
    }
}

/// A fuzzer makes its inputs as long as the longest that it begins with.
#[test]
fn long_inputs_are_in_the_corpora() {
    for case in long::CASES {
        let path = fuzz("corpus")
            .join(case.check)
            .join(format!("long-{}", case.name));
        let bytes = (case.make)(LONG);
        if std::env::var_os("TIDEGATE_BLESS").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(
            kept == bytes,
            "{}: TIDEGATE_BLESS=1 writes it",
            path.display()
        );
    }
}

/// Without this, a target without a corpus, or a corpus without a target, would not be noticed.
#[test]
fn every_target_has_its_corpus() {
    let known: BTreeSet<String> = checks::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    for folder in ["checks", "corpus", "fuzz_targets"] {
        let found: BTreeSet<String> = entries(&fuzz(folder))
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(found, known, "{folder}");
    }
}
