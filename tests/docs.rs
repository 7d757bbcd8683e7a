//! The documents say what the program does.

#![expect(
    clippy::unwrap_used,
    reason = "a test that fails has nothing to clean up"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tidegate::config;
use tidegate::protocol::rejection::Rejection;
use tidegate::tunnel::ended::Ended;

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The first cells of the rows of all tables.
fn first_cells(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect()
}

#[test]
fn every_reason_is_documented_with_its_status_and_no_other_is() {
    let text = read("docs/reasons.md");
    let documented = first_cells(&text);
    let rejections = Rejection::ALL.iter().map(|rejection| rejection.token());
    let ended = Ended::ALL.iter().map(|ended| ended.token());
    assert_eq!(documented, rejections.chain(ended).collect::<Vec<_>>());
    for rejection in Rejection::ALL {
        let row = format!(
            "| `{}` | {} |",
            rejection.token(),
            rejection.status().as_u16()
        );
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn the_figures_in_the_readme_are_those_of_the_newest_run() {
    let runs = fs::read_dir(root().join("benches/runs")).unwrap();
    let newest = runs.map(|run| run.unwrap().file_name()).max().unwrap();
    let name = format!("benches/runs/{}/README.md", newest.to_str().unwrap());
    let (readme, run) = (read("README.md"), read(&name));
    assert!(readme.contains(&format!("({name})")), "{name}");
    let mut figures = readme
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("–**"));
    assert!(figures.clone().count() > 5);
    assert!(figures.all(|line| run.lines().any(|known| known == line)));
}

#[test]
fn the_schema_that_ships_is_that_of_the_program() {
    let path = root().join("config.schema.json");
    let current = format!("{:#}\n", config::schema());
    if std::env::var_os("TIDEGATE_BLESS").is_some() {
        fs::write(&path, &current).unwrap();
    }
    assert!(
        fs::read_to_string(&path).is_ok_and(|shipped| shipped == current),
        "config.schema.json is not up to date: run with TIDEGATE_BLESS=1"
    );
}

#[test]
fn the_example_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name, text: String| fs::write(folder.path().join(name), text).unwrap();
    write("localhost.pem", made.cert.pem());
    write("localhost.key", made.signing_key.serialize_pem());
    let source = read("examples/hono/tidegate.toml");
    let loaded = config::parse(&source, &folder.path().join("tidegate.toml"), &|_| None).unwrap();
    assert!(
        loaded.warnings.diagnostics().is_empty(),
        "{}",
        loaded.warnings.render(false)
    );
}
