//! Links lead somewhere, and the index lists every page.

use std::fs;

use super::{pages, read, root};

/// The anchor of a heading, as code hosting sites derive it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | ' ');
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(kept)
        .collect::<String>()
        .replace(' ', "-")
}

/// `text` without its fenced blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let others = [
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "RELEASING.md",
    ];
    let mut links = 0;
    for name in pages().into_iter().chain(others.map(str::to_owned)) {
        let text = prose(&read(&name));
        let folder = root().join(&name).parent().unwrap().to_owned();
        for target in text.split("](").skip(1) {
            let target = target.split(')').next().unwrap();
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                root().join(&name)
            } else {
                folder.join(file)
            };
            assert!(path.exists(), "{name}: {target}");
            let has_heading = heading.is_empty()
                || prose(&fs::read_to_string(&path).unwrap())
                    .lines()
                    .any(|line| line.starts_with('#') && anchor(line) == heading);
            assert!(has_heading, "{name}: {target} has no such heading");
            links += 1;
        }
    }
    assert!(links > 100, "{links}");
}

#[test]
fn the_index_lists_every_page() {
    let index = read("docs/README.md");
    for name in pages() {
        let name = name.trim_start_matches("docs/");
        assert!(
            name == "README.md" || index.contains(&format!("]({name})")),
            "{name} is not in docs/README.md"
        );
    }
}
