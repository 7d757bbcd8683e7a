//! The configuration: from a TOML file to typed, checked values, every problem reported at once.
//!
//! This module owns the file format and its diagnostics. It knows no sockets; only `raw` knows TOML. A
//! file becomes a [`model::Config`] once, and nothing after this module checks it again.

pub mod key_set;
pub mod model;
mod value;
pub mod file_pattern;
pub mod sources;
pub mod diagnostic;
pub mod keys;
mod raw;
pub mod input_file;
mod unreadable;
mod files;
mod include;
pub mod endpoints_file;
pub mod endpoint_map;
pub mod ports;
pub mod descriptor_budget;
mod build;
mod check;
mod lint;

pub(crate) use self::check::overlap;
pub use self::diagnostic::Report;
pub(crate) use self::files::roots as ca_certificates;
pub use self::raw::{compared, effective};
pub(crate) use self::unreadable::{Unreadable, user as user_name, writable_folder};

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use self::diagnostic::{Code, Diagnostic, Severity};
use self::include::IncludeFrom;
use self::input_file::{ContentHash, Contents, Input};
use self::model::{Bind, Config};
use self::sources::{SourceId, SourceText, Sources};

/// A configuration that can run.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The texts that it was read from.
    pub sources: Arc<Sources>,
    /// Warnings about what is probably not intended.
    pub warnings: Report,
    /// Where addresses to listen on are written.
    pub bind_places: BindPlaces,
}

/// The places of addresses to listen on, for errors of the system that concern one.
#[derive(Debug, Clone, Default)]
pub struct BindPlaces(Vec<(Bind, String)>);

impl BindPlaces {
    fn new(built: &build::Built, sources: &Sources) -> Self {
        let listeners = built.config.listeners.iter().zip(&built.places.listeners);
        let binds = listeners.flat_map(|(listener, place)| listener.binds.iter().zip(&place.binds));
        let admin = &built.config.admin;
        let of_admin = admin.bind.iter().zip(&built.places.admin_bind);
        let of_metrics = admin.metrics_bind.iter().zip(&built.places.metrics_bind);
        let all = binds.chain(of_admin).chain(of_metrics);
        Self(
            all.map(|(bind, span)| (bind.clone(), sources.place(span)))
                .collect(),
        )
    }

    /// Where this address is written, as `FILE:LINE`; `None` if it is a default.
    pub fn of(&self, bind: &Bind) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(other, _)| other == bind)
            .map(|(_, place)| place.as_str())
    }
}

/// Leaves the texts out, because they may contain secrets.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// What is done about the folders that the process writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrittenFolders {
    /// They must be writable.
    Checked,
    /// They are not looked at: one that is away must neither hold up a start or a reload, nor prevent it.
    Ignored,
}

/// Reads and checks the file at `path`, the files that it includes, and the files that they refer to.
///
/// # Errors
/// All errors, together with the warnings.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_contents(input_file::read(path), path, WrittenFolders::Ignored)
}

/// As [`load`], and checks the folders that the process would write to.
///
/// # Errors
/// As [`load`].
pub fn load_with_folders(path: &Path) -> Result<Loaded, Report> {
    load_contents(input_file::read(path), path, WrittenFolders::Checked)
}

/// As [`load_with_folders`], but reads the configuration from `input`; files are relative to the working
/// directory. Reports call it `name`.
///
/// # Errors
/// As [`load`].
pub fn load_stream(input: impl io::Read, name: &str) -> Result<Loaded, Report> {
    let contents = input_file::read_stream(input);
    load_contents(contents, Path::new(name), WrittenFolders::Checked)
}

fn load_contents(
    contents: Contents,
    path: &Path,
    folders: WrittenFolders,
) -> Result<Loaded, Report> {
    match contents.and_then(|bytes| input_file::text(&bytes)) {
        Ok(text) => {
            let main = SourceText::new(path, &text);
            read_all(main, IncludeFrom::Files, &variable, folders)
        }
        Err(error) => {
            let unreadable = unreadable::explain(path, &error);
            let message = format!("cannot read the file: {}", unreadable.why);
            let mut error = Diagnostic::of_file(Code::File, message);
            error.hint = unreadable.hint;
            let nothing = Sources::new(SourceText::new(path, ""));
            Err(Report::new(nothing.into(), vec![error]))
        }
    }
}

/// A variable of the environment of this process.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Checks `source` as if it was the file at `path`. `environment` looks up variables of the form
/// `${NAME}`.
///
/// # Errors
/// As [`load`].
pub fn parse(
    source: &str,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    let main = SourceText::new(path, source);
    let folders = WrittenFolders::Ignored;
    read_all(main, IncludeFrom::Files, environment, folders)
}

/// Checks texts that were read earlier once more, and reads the files again that they refer to, but do not
/// include.
///
/// # Errors
/// As [`load`].
pub fn parse_again(earlier: &Sources) -> Result<Loaded, Report> {
    let main = earlier.main().clone();
    let folders = WrittenFolders::Ignored;
    read_all(main, IncludeFrom::Earlier(earlier), &variable, folders)
}

fn read_all(
    main: SourceText,
    from: IncludeFrom<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
    folders: WrittenFolders,
) -> Result<Loaded, Report> {
    let mut diagnostics = Vec::new();
    let used = RefCell::new(Vec::new());
    let noted = |name: &str| {
        let value = environment(name)?;
        used.borrow_mut().push((name.to_owned(), value.clone()));
        Some(value)
    };
    let (root, sources) = merged(main, from, &noted, &mut diagnostics);
    let mut built = build::build(&root, &sources, &mut diagnostics);
    // Lints look at files without errors only, so they come last.
    check::check(&built, &mut diagnostics);
    if folders == WrittenFolders::Checked {
        check::check_folders(&built.places, &mut diagnostics);
    }
    lint::lint(&built, &mut diagnostics);
    diagnostics
        .retain(|each| each.severity == Severity::Error || !built.allowed.contains(&each.code));
    for diagnostic in &mut diagnostics {
        // Values of variables may be secrets: messages show the names instead.
        diagnostic.mask(&used.borrow());
    }
    let sources = Arc::new(sources);
    let report = Report::new(Arc::clone(&sources), diagnostics);
    if report.count(Severity::Error) > 0 {
        return Err(report);
    }
    let texts = sources.all().map(|text| Input {
        path: text.path().to_owned(),
        hash: ContentHash::of_text(text.text()),
    });
    built.config.inputs.splice(0..0, texts);
    Ok(Loaded {
        bind_places: BindPlaces::new(&built, &sources),
        config: built.config,
        sources,
        warnings: report,
    })
}

/// The main file and the files that it includes, as one.
fn merged(
    main: SourceText,
    from: IncludeFrom<'_>,
    environment: &dyn Fn(&str) -> Option<String>,
    diagnostics: &mut Vec<Diagnostic>,
) -> (raw::Section, Sources) {
    let root = raw::read(SourceId::MAIN, main.text(), environment, diagnostics);
    let mut sources = Sources::new(main);
    let is_whole = include::include(&root, &mut sources, from, diagnostics);
    let mut merger = raw::Merger::new(root, sources.main().name());
    for (id, text) in sources.ids() {
        let section = raw::read(id, text.text(), environment, diagnostics);
        merger.add(section, diagnostics);
    }
    let root = match is_whole {
        true => merger.merged(),
        false => merger.incomplete(),
    };
    (root, sources)
}
