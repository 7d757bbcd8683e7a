//! `include`: the files that a configuration includes, and their texts.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use super::diagnostic::{Code, Diagnostic};
use super::file_pattern::{FilePattern, MAX_FILES};
use super::input_file::{self, MAX_INPUT_BYTES};
use super::raw::{ConfigValue, Section};
use super::sources::{SourceText, Sources, Span};
use super::unreadable;

/// The maximum number of entries of `include`: each may read a folder.
const MAX_ENTRIES: usize = 256;

/// Where the texts of included files are taken from.
#[derive(Debug, Clone, Copy)]
pub(super) enum IncludeFrom<'a> {
    /// The files, as they are now.
    Files,
    /// The texts of an earlier reading: neither the folders nor the files are read again.
    Earlier(&'a Sources),
}

/// Adds the texts of the files that the main file includes to `sources`. Returns whether these are all: what
/// is missing was reported, and what it contains is unknown.
pub(super) fn include(
    root: &Section,
    sources: &mut Sources,
    from: IncludeFrom<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> bool {
    let before = diagnostics.len();
    let entries = root.list("include");
    if let (Some(at), true) = (root.written("include"), entries.len() > MAX_ENTRIES) {
        let message = format!("`include` has more than {MAX_ENTRIES} entries");
        let error = Diagnostic::error(Code::Value, at.span.clone(), message);
        diagnostics.push(error.hint("use a pattern such as `conf.d/*.toml`"));
        return false;
    }
    let mut collector = Collector {
        bytes: sources.main().text().len(),
        taken: HashSet::from([sources.main().path().to_owned()]),
        sources,
        from,
        earlier: match from {
            IncludeFrom::Files => HashMap::new(),
            IncludeFrom::Earlier(earlier) => by_path(earlier),
        },
        diagnostics,
    };
    let mut is_whole = !root.doubtful.contains(&"include");
    for at in &entries {
        match &at.value {
            ConfigValue::Text(text) if is_whole => is_whole = collector.entry(text, &at.span),
            ConfigValue::Text(_) => {}
            _ => is_whole = false,
        }
    }
    let mut found = diagnostics.iter().skip(before);
    is_whole && !found.any(|each| each.code == Code::File)
}

fn by_path(sources: &Sources) -> HashMap<&Path, &SourceText> {
    let texts = sources.included().iter();
    texts.map(|text| (text.path(), text)).collect()
}

struct Collector<'a> {
    sources: &'a mut Sources,
    from: IncludeFrom<'a>,
    /// The texts of an earlier reading.
    earlier: HashMap<&'a Path, &'a SourceText>,
    /// The size of all texts.
    bytes: usize,
    /// The files whose texts are in `sources`.
    taken: HashSet<PathBuf>,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Collector<'_> {
    /// Adds the files that one entry stands for. `false` if nothing more is to be read.
    fn entry(&mut self, text: &str, span: &Span) -> bool {
        let pattern = match FilePattern::parse(self.sources.main().folder(), text) {
            Ok(pattern) => pattern,
            Err(error) => {
                self.error(Code::Value, span, error);
                return false;
            }
        };
        let files = match self.from {
            IncludeFrom::Files => pattern.list(),
            IncludeFrom::Earlier(earlier) => Ok(earlier.matching(&pattern)),
        };
        match files {
            Ok(files) if files.is_empty() => self.warn_of_nothing(&pattern, span),
            Ok(files) => {
                // A pattern such as `*.toml` matches the main file, too, if that is in the same folder.
                let is_main = |file: &Path| pattern.is_glob() && file == self.sources.main().path();
                let files: Vec<PathBuf> = files.into_iter().filter(|it| !is_main(it)).collect();
                for file in files {
                    if !self.file(&file, span) {
                        return false;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.warn_of_nothing(&pattern, span);
                self.sources.add_missing(pattern.clone());
            }
            Err(error) => {
                let unreadable = unreadable::explain(pattern.folder(), &error);
                let folder = pattern.folder().display();
                let message = format!("cannot read folder `{folder}`: {}", unreadable.why);
                let mut error = Diagnostic::error(Code::File, span.clone(), message);
                error.hint = unreadable.hint;
                self.diagnostics.push(error);
            }
        }
        self.sources.add_pattern(pattern);
        true
    }

    /// Adds one file. `false` if nothing more is to be read.
    fn file(&mut self, path: &Path, span: &Span) -> bool {
        if path == self.sources.main().path() {
            self.error(Code::Value, span, "the file includes itself".to_owned());
            return true;
        }
        // Two patterns may match one file, such as one that has to come first.
        if !self.taken.insert(path.to_owned()) {
            return true;
        }
        if self.sources.included().len() == MAX_FILES {
            let message = format!("more than {MAX_FILES} files are included");
            self.error(Code::File, span, message);
            return false;
        }
        let Some(text) = self.text(path, span) else {
            return true;
        };
        self.bytes = self.bytes.saturating_add(text.text().len());
        if self.bytes as u64 > MAX_INPUT_BYTES {
            let message = format!(
                "the files are larger than {MAX_INPUT_BYTES} bytes together, the main file included"
            );
            self.error(Code::File, span, message);
            return false;
        }
        self.sources.add(text);
        true
    }

    /// The text of a file. What is wrong is reported where it is included.
    fn text(&mut self, path: &Path, span: &Span) -> Option<SourceText> {
        if let IncludeFrom::Earlier(_) = self.from {
            return self.earlier.get(path).map(|text| SourceText::clone(text));
        }
        let contents = input_file::read(path);
        let read = contents.and_then(|bytes| input_file::text(&bytes));
        match read {
            Ok(text) => Some(SourceText::new(path, &text)),
            Err(error) => {
                let unreadable = unreadable::explain(path, &error);
                let message = format!("cannot read `{}`: {}", path.display(), unreadable.why);
                let mut error = Diagnostic::error(Code::File, span.clone(), message);
                error.hint = unreadable.hint;
                self.diagnostics.push(error);
                None
            }
        }
    }

    fn warn_of_nothing(&mut self, pattern: &FilePattern, span: &Span) {
        let message = format!("no file matches `{}`", pattern.path().display());
        let mut warning = Diagnostic::warning(Code::EmptyInclude, span.clone(), message);
        if !pattern.folder().is_dir() {
            let folder = pattern.folder().display();
            warning = warning.hint(format!("there is no folder `{folder}`"));
        }
        self.diagnostics.push(warning);
    }

    fn error(&mut self, code: Code, span: &Span, message: String) {
        self.diagnostics
            .push(Diagnostic::error(code, span.clone(), message));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::{Loaded, Report, parse, parse_again};
    use super::MAX_FILES;

    const MAIN: &str = "include = [\"conf.d/*.toml\"]\n\
                        [listener.a]\nbind = [\"127.0.0.1:0\"]\n\
                        [[route]]\nname = \"main\"\nhosts = [\"main.example\"]\nupstream = \"main\"\n\
                        [upstream.main]\nendpoints = [\"127.0.0.1:9000\"]\n";

    fn part(name: &str) -> String {
        format!(
            "[[route]]\nname = \"{name}\"\nhosts = [\"{name}.example\"]\nupstream = \"{name}\"\n\
             [upstream.{name}]\nendpoints = [\"127.0.0.1:9000\"]\n"
        )
    }

    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn load(main: &str, folder: &TempDir) -> Result<Loaded, Report> {
        parse(main, &folder.path().join("tidegate.toml"), &|_| None)
    }

    /// The lines of a report, without the folder.
    fn lines(report: &Report, folder: &TempDir) -> Vec<String> {
        let prefix = format!("{}/", folder.path().display());
        report
            .lines()
            .map(|line| line.replace(&prefix, ""))
            .collect()
    }

    #[track_caller]
    fn check(main: &str, files: &[(&str, &str)], expected: &[&str]) {
        let folder = folder(files);
        let report = match load(main, &folder) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        assert_eq!(lines(&report, &folder), expected);
    }

    fn route_names(loaded: &Loaded) -> Vec<&str> {
        let routes = loaded.config.routes.iter();
        routes.map(|route| &*route.name).collect()
    }

    #[test]
    fn routes_come_in_the_order_of_the_files() {
        let (nine, ten, first) = (part("nine"), part("ten"), part("first"));
        let folder = folder(&[
            ("conf.d/9.toml", &nine),
            ("conf.d/10.toml", &ten),
            ("conf.d/.hidden.toml", "this is not TOML"),
            ("first.toml", &first),
        ]);
        let loaded = load(MAIN, &folder).unwrap();
        assert_eq!(route_names(&loaded), ["main", "ten", "nine"]);
        let paths = loaded.config.inputs.iter().map(|input| &input.path);
        let names = ["tidegate.toml", "conf.d/10.toml", "conf.d/9.toml"];
        assert!(paths.eq(&names.map(|name| folder.path().join(name))));
        // Two entries may match one file: the first one decides.
        let several =
            "include = [\"first.toml\", \"conf.d/9.toml\", \"conf.d/*.toml\", \"*.toml\"]";
        let main = MAIN.replace("include = [\"conf.d/*.toml\"]", several);
        fs::write(folder.path().join("tidegate.toml"), &main).unwrap();
        let loaded = load(&main, &folder).unwrap();
        assert_eq!(route_names(&loaded), ["main", "first", "nine", "ten"]);
    }

    #[test]
    fn earlier_texts_are_taken_whatever_the_files_are_now() {
        let (b, c) = (part("b"), part("c"));
        let folder = folder(&[("conf.d/b.toml", &b), ("conf.d/c.toml", &c)]);
        let main = MAIN.replace(
            "[\"conf.d/*.toml\"]",
            "[\"conf.d/c.toml\", \"conf.d/*.toml\", \"no-*\"]",
        );
        let first = load(&main, &folder).unwrap();
        fs::write(folder.path().join("conf.d/b.toml"), "broken").unwrap();
        fs::remove_file(folder.path().join("conf.d/c.toml")).unwrap();
        fs::write(folder.path().join("conf.d/d.toml"), part("d")).unwrap();
        let again = parse_again(&first.sources).unwrap();
        assert_eq!(route_names(&again), ["main", "c", "b"]);
        assert_eq!(again.config.inputs, first.config.inputs);
        assert_eq!(again.sources.patterns(), first.sources.patterns());
        let warnings = [&again, &first].map(|each| lines(&each.warnings, &folder));
        assert_eq!(warnings[0], warnings[1]);
        assert_eq!(
            warnings[0],
            ["tidegate.toml:1: no file matches `no-*` [empty-include]"]
        );
        assert!(load(&main, &folder).is_err());
    }

    #[test]
    fn what_is_wrong_is_reported_where_it_stands() {
        let twice = "\n[upstream.main]\nendpoints = [\"127.0.0.1:9001\"]\n";
        check(
            MAIN,
            &[("conf.d/b.toml", twice)],
            &[
                "conf.d/b.toml:2: `[upstream.main]` is defined twice (the first one is at tidegate.toml:8) [duplicate]",
            ],
        );
        let (b, c) = (part("b"), part("b").replace("b.example", "c.example"));
        let listener = "[listener.b]\nbind = [\"127.0.0.1:0\"]\n";
        check(
            MAIN,
            &[("conf.d/b.toml", &b), ("conf.d/c.toml", &c)],
            &[
                "conf.d/c.toml:2: another route already has the name `b` (the first one is at conf.d/b.toml:2) [duplicate]",
                "conf.d/c.toml:5: `[upstream.b]` is defined twice (the first one is at conf.d/b.toml:5) [duplicate]",
            ],
        );
        check(
            MAIN,
            &[("conf.d/b.toml", listener), ("conf.d/c.toml", listener)],
            &[
                "conf.d/c.toml:1: `[listener.b]` is defined twice (the first one is at conf.d/b.toml:1) [duplicate]",
            ],
        );
        let odd =
            "include = \"more/*.toml\"\n[server]\nwatch = \"all\"\n[admin]\nmode = \"0600\"\n";
        check(
            MAIN,
            &[("conf.d/b.toml", odd)],
            &[
                "conf.d/b.toml:1: an included file cannot include others (list them in `tidegate.toml`) [conflict]",
                "conf.d/b.toml:2: `[server]` is not allowed in an included file (move it to `tidegate.toml`) [conflict]",
                "conf.d/b.toml:4: `[admin]` is not allowed in an included file (move it to `tidegate.toml`) [conflict]",
            ],
        );
        check(
            MAIN,
            &[(
                "conf.d/b.toml",
                "\n[[route]]\nupstream = \"c\"\nhosts = [\"b.example\"]\n",
            )],
            &["conf.d/b.toml:3: there is no upstream `c` (the configuration has: main) [dangling]"],
        );
    }

    /// A file with a mistake may contain what others refer to.
    #[test]
    fn nothing_is_reported_that_merely_follows_from_a_file_that_cannot_be_read() {
        let lost = "[[route]]\nhosts = [\"b.example\"]\nupstream = \"lost\"\n";
        for (text, expected) in [
            (
                "\n[upstream.lost\nendpoints = [\"127.0.0.1:9001\"]\n",
                "conf.d/c.toml:2: unclosed table, expected `]` [syntax]",
            ),
            (
                "http {\n  server_name a.example;\n}\n",
                "conf.d/c.toml:1: this is an nginx configuration, but tidegate reads TOML (docs/migration.md shows the same configuration for tidegate, under \"From nginx\") [syntax]",
            ),
        ] {
            check(
                MAIN,
                &[("conf.d/b.toml", lost), ("conf.d/c.toml", text)],
                &[expected],
            );
        }
        let folder = folder(&[("conf.d/b.toml", lost), ("conf.d/d.toml/none", "")]);
        fs::write(folder.path().join("conf.d/c.toml"), b"\xff").unwrap();
        assert_eq!(
            lines(&load(MAIN, &folder).unwrap_err(), &folder),
            [
                "tidegate.toml:1: cannot read `conf.d/c.toml`: not valid UTF-8 [file]",
                "tidegate.toml:1: cannot read `conf.d/d.toml`: not a regular file [file]",
            ]
        );
    }

    #[test]
    fn entries_that_match_nothing_are_a_warning_and_missing_files_an_error() {
        let with = |include: &str| MAIN.replace("[\"conf.d/*.toml\"]", include);
        check(
            MAIN,
            &[],
            &[
                "tidegate.toml:1: no file matches `conf.d/*.toml` (there is no folder `conf.d`) [empty-include]",
            ],
        );
        check(
            MAIN,
            &[("conf.d/a.txt", "")],
            &["tidegate.toml:1: no file matches `conf.d/*.toml` [empty-include]"],
        );
        let allowed = with("\"conf.d/*.toml\"\nserver.allow_warnings = [\"empty-include\"]");
        check(&allowed, &[], &[]);
        check(
            &with("[\"conf.d/none.toml\"]"),
            &[],
            &["tidegate.toml:1: cannot read `conf.d/none.toml`: No such file or directory [file]"],
        );
        check(
            &with("\"tidegate.toml\""),
            &[],
            &["tidegate.toml:1: the file includes itself [value]"],
        );
        check(
            &with("[\"conf.d/\"]"),
            &[],
            &["tidegate.toml:1: `conf.d/` does not end with the name of a file [value]"],
        );
        let many = format!("[{}]", "\"a.toml\", ".repeat(300));
        check(
            &with(&many),
            &[("a.toml", "")],
            &[
                "tidegate.toml:1: `include` has more than 256 entries (use a pattern such as `conf.d/*.toml`) [value]",
            ],
        );
        check(
            &MAIN.replace("include", "[server]\ninclude"),
            &[],
            &[
                "tidegate.toml:2: unknown key `include` (`include` stands at the beginning of the main file, above the first table) [unknown-key]",
            ],
        );
    }

    #[test]
    fn the_number_of_files_has_a_limit() {
        let folder = folder(&[("conf.d/00000.toml", "")]);
        let add = |number: usize| {
            let path = folder.path().join(format!("conf.d/{number:05}.toml"));
            fs::write(path, "").unwrap();
        };
        (1..MAX_FILES).for_each(add);
        let loaded = load(MAIN, &folder).unwrap();
        assert_eq!(loaded.sources.included().len(), MAX_FILES);
        add(MAX_FILES);
        assert_eq!(
            lines(&load(MAIN, &folder).unwrap_err(), &folder),
            ["tidegate.toml:1: more than 10000 files are included [file]"]
        );
    }

    #[test]
    fn the_files_together_have_a_limit() {
        let half = format!("#{}\n", "-".repeat(9 * 1024 * 1024));
        check(
            MAIN,
            &[("conf.d/a.toml", &half), ("conf.d/b.toml", &half)],
            &[
                "tidegate.toml:1: the files are larger than 16777216 bytes together, the main file included [file]",
            ],
        );
    }

    #[test]
    fn names_are_relative_to_the_file_that_they_stand_in() {
        let text = "[upstream.b]\nendpoints_file = \"b.txt\"\n\
                    [[route]]\nhosts = [\"b.example\"]\nupstream = \"b\"\n";
        let files = [("conf.d/b.toml", text), ("b.txt", "127.0.0.1:9001\n")];
        check(
            MAIN,
            &files,
            &[
                "conf.d/b.toml:2: cannot read `conf.d/b.txt`: No such file or directory (file names are relative to the folder of the file that they stand in) [file]",
            ],
        );
        let folder = folder(&[files[0], ("conf.d/b.txt", "127.0.0.1:9001\n")]);
        let loaded = load(MAIN, &folder).unwrap();
        let file = folder.path().join("conf.d/b.txt");
        assert!(loaded.config.inputs.iter().any(|input| input.path == file));
    }

    #[test]
    fn both_places_are_shown_with_their_lines() {
        let folder = folder(&[(
            "conf.d/b.toml",
            "\n[upstream.main] # again\nendpoints = [\"127.0.0.1:1\"]\n",
        )]);
        let report = load(MAIN, &folder).unwrap_err();
        let shown = report.render(false);
        for part in [
            "b.toml:2:11",
            "[upstream.main] # again",
            "tidegate.toml:8",
            "the first one",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        let json = report.to_json();
        let at = |name: &str| folder.path().join(name).display().to_string();
        assert_eq!(json[0]["file"], at("conf.d/b.toml"));
        assert_eq!(json[0]["line"], 2);
        assert_eq!(json[0]["first"], format!("{}:8", at("tidegate.toml")));
    }
}
