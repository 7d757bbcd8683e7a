//! No circle of imports, except between a file and the files below it.
//!
//! A parent may use its children and a child its parent: they are one thing in several files. Siblings
//! that need each other are one thing that was cut in the wrong place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::source::{Source, sources};

type Path = Vec<String>;
type Graph = BTreeMap<Path, BTreeSet<Path>>;

fn module_of(file: &str) -> Path {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').map(str::to_owned).collect()
}

/// The part of `text` from `start` on that can belong to one path.
fn path_at(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    &text[..end.unwrap_or(text.len())]
}

/// The paths in a tree of `use`, each with `before` in front.
fn expand(tree: &str, before: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        paths.push(format!("{before}{}", path_at(tree)));
        return;
    };
    let before = format!("{before}{}", head.trim());
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (index, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[start..index], &before, paths);
                start = index + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        expand(&inner[start..], &before, paths);
    }
}

/// All paths that a file names, as they are written.
fn written(source: &Source) -> Vec<String> {
    let code: Vec<&str> = source
        .production()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join("\n");
    let mut paths = Vec::new();
    for statement in code.split("use ").skip(1) {
        let statement = statement.split(';').next().unwrap_or_default();
        expand(statement, "", &mut paths);
    }
    for start in ["crate::", "super::", "self::"] {
        for (index, _) in code.match_indices(start) {
            let is_inside = code[..index].ends_with([':', '_']);
            if !is_inside {
                paths.push(path_at(&code[index..]).to_owned());
            }
        }
    }
    paths
}

/// `path` as written in `module`, from the root of the crate.
fn resolve(path: &str, module: &[String]) -> Path {
    let mut parts = path.split("::").peekable();
    let mut base = module.to_vec();
    match parts.peek() {
        Some(&"crate") => {
            parts.next();
            base.clear();
        }
        Some(&"self") => drop(parts.next()),
        _ => {}
    }
    while parts.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(parts.map(str::to_owned));
    base
}

fn is_related(one: &[String], other: &[String]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

fn graph(all: &[Source]) -> Graph {
    let modules: BTreeSet<Path> = all.iter().map(|source| module_of(&source.path)).collect();
    let uses = |source: &Source| {
        let module = module_of(&source.path);
        let named = written(source).into_iter().filter_map(|path| {
            let path = resolve(&path, &module);
            let prefixes = (1..=path.len()).rev().map(|length| path[..length].to_vec());
            prefixes.into_iter().find(|prefix| modules.contains(prefix))
        });
        let used = named.filter(|used| !is_related(used, &module)).collect();
        (module, used)
    };
    all.iter().map(uses).collect()
}

/// The shortest way from `start` back to itself.
fn circle(graph: &Graph, start: &Path) -> Option<Vec<Path>> {
    let mut came_from: BTreeMap<&Path, &Path> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(module) = queue.pop_front() {
        for next in graph.get(module)? {
            if next == start {
                let mut way = vec![start.clone()];
                let mut step = module;
                while step != start {
                    way.push(step.clone());
                    step = came_from[step];
                }
                way.reverse();
                return Some(way);
            }
            if graph.contains_key(next) && !came_from.contains_key(next) {
                came_from.insert(next, module);
                queue.push_back(next);
            }
        }
    }
    None
}

fn circles(all: &[Source]) -> BTreeSet<String> {
    let graph = graph(all);
    let found = graph.keys().filter_map(|module| {
        let mut names: Vec<String> = circle(&graph, module)?
            .iter()
            .map(|module| module.join("/"))
            .collect();
        names.sort();
        Some(names.join(" "))
    });
    found.collect()
}

#[test]
fn no_files_import_one_another_in_a_circle() {
    let found = circles(&sources("src"));
    assert!(found.is_empty(), "{found:#?}");

    let one = Source::new("src/a/one.rs", "use super::{two::Two, three};");
    let two = Source::new("src/a/two.rs", "fn f(one: crate::a::one::One) {}");
    let parent = Source::new("src/a.rs", "mod one;\nuse self::one::One;");
    assert_eq!(circles(&[one.clone(), parent.clone()]).len(), 0);
    let found = circles(&[one, two, parent]);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a/one a/two"]);
}
