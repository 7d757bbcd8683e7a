//! The worst of what made readers stop, kept out of every sentence: comments, messages, documents.

use std::fs;

use crate::source::{Source, root, sources};

/// A word or a phrase, what may stand in front of it, what may follow, and what to write instead.
struct Phrase {
    text: &'static str,
    after: &'static [&'static str],
    before: &'static [&'static str],
    instead: &'static str,
}

const fn phrase(text: &'static str, instead: &'static str) -> Phrase {
    Phrase {
        text,
        after: &[],
        before: &[],
        instead,
    }
}

const PHRASES: [Phrase; 14] = [
    Phrase {
        text: "is no",
        after: &["there"],
        before: &["longer", "more"],
        instead: "is not a valid …",
    },
    Phrase {
        text: "so many",
        after: &[],
        before: &["that", "as"],
        instead: "the name of the value",
    },
    Phrase {
        text: "so long",
        after: &[],
        before: &["that", "as"],
        instead: "the name of the time",
    },
    Phrase {
        text: "so much",
        after: &[],
        before: &["that", "as"],
        instead: "the name of the value",
    },
    phrase("whom", "a subject"),
    phrase("whoever", "the client, the process, the operator"),
    phrase("nobody", "no client, no process, no connection"),
    phrase("likewise", "what it is"),
    phrase("believed", "trusted"),
    phrase("anew", "again"),
    phrase("told", "reported"),
    phrase("tells", "shows"),
    phrase("is not taken", "is rejected"),
    phrase("the process before", "the previous process"),
];

/// Where `phrase` stands in `line`, if it does.
fn stands_in(phrase: &Phrase, line: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(phrase.text).any(|(start, text)| {
        let (front, back) = (&line[..start], &line[start + text.len()..]);
        let is_whole = !front.ends_with(is_word) && !back.starts_with(is_word);
        let mut earlier = front.split(|c| !is_word(c)).rev();
        let last = earlier.find(|word| !word.is_empty()).unwrap_or_default();
        let mut later = back.split(|c| !is_word(c));
        let next = later.find(|word| !word.is_empty()).unwrap_or_default();
        is_whole && !phrase.after.contains(&last) && !phrase.before.contains(&next)
    })
}

fn riddles(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    // Unit tests have no readers but those who change them.
    for (number, line) in source.without_tests().lines().enumerate() {
        let lower = line.to_lowercase();
        for phrase in PHRASES.iter().filter(|phrase| stands_in(phrase, &lower)) {
            found.push(format!(
                "{}:{}: `{}`, better {}: {}",
                source.path,
                number + 1,
                phrase.text,
                phrase.instead,
                line.trim()
            ));
        }
    }
    found
}

/// The documents that people read, but for the reports of benchmark runs.
fn documents() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/balancing"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let is_document = path.extension().is_some_and(|extension| extension == "md");
            if is_document
                || ["config.example.toml", "Cargo.toml"]
                    .iter()
                    .any(|file| path.ends_with(file))
            {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
                found.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    // The list of words that are not used has to name them.
    found.retain(|document| document.path != "docs/glossary.md");
    assert!(found.len() > 10);
    found
}

#[test]
fn sentences_are_plain() {
    let all = [sources("src"), documents()].concat();
    let found: Vec<String> = all.iter().flat_map(riddles).collect();
    assert!(found.is_empty(), "{found:#?}");

    let check = |text: &str| riddles(&Source::new("x", text)).len();
    assert_eq!(check("// `x` is no duration"), 1);
    assert_eq!(
        check("// There is no route, and the old one is no longer used."),
        0
    );
    assert_eq!(check("// Whoever asks is told so many things."), 3);
    assert_eq!(check("// as_told(x)"), 0);
}
