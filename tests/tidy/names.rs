//! A type's name stands once in the crate, so that it means one thing.

use std::collections::BTreeMap;

use crate::source::{Source, sources};

/// The types that a file declares, but for those of its unit tests.
fn types(source: &Source) -> Vec<&str> {
    let declared = source.without_tests().lines().filter_map(|line| {
        let line = match line.strip_prefix("pub") {
            Some(rest) => rest.trim_start_matches(|c| c != ' ').trim_start(),
            None => line,
        };
        let kinds = ["struct ", "enum ", "trait ", "union ", "type "];
        let name = kinds.iter().find_map(|kind| line.strip_prefix(kind))?;
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        Some(&name[..end.unwrap_or(name.len())])
    });
    declared.collect()
}

fn repeated(all: &[Source]) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for source in all {
        for name in types(source) {
            files.entry(name).or_default().push(&source.path);
        }
    }
    files.retain(|_, files| files.len() > 1);
    let shown = files
        .iter()
        .map(|(name, files)| format!("{name}: {}", files.join(" ")));
    shown.collect()
}

#[test]
fn a_name_of_a_type_stands_once() {
    let found = repeated(&sources("src"));
    assert!(found.is_empty(), "{found:#?}");

    let one = Source::new("src/a.rs", "pub(super) struct Place<K> {\n}\nenum Other;");
    let two = Source::new(
        "src/b.rs",
        "enum Place {}\n#[cfg(test)]\nmod tests {\nstruct Other;",
    );
    assert_eq!(repeated(&[one, two]), ["Place: src/a.rs src/b.rs"]);
}
