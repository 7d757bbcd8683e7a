//! The configuration: from a TOML file to typed, checked values, every problem reported at once.
//!
//! This module owns the file format and its diagnostics. It knows no sockets; only `raw` knows TOML. A
//! file becomes a [`model::Config`] once, and nothing after this module checks it again.

pub mod model;
mod value;
pub mod diagnostic;
pub mod keys;
mod raw;
pub mod input_file;
mod unreadable;
mod files;
pub mod endpoints_file;
pub mod ports;
pub mod descriptor_budget;
mod build;
mod check;
mod lint;

pub(crate) use self::check::overlap;
pub use self::diagnostic::Report;
pub use self::raw::{compared, effective};
pub(crate) use self::unreadable::user as user_name;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use self::diagnostic::{Code, Diagnostic, Severity};
use self::input_file::{ContentHash, Contents, Input};
use self::model::{Bind, Config};

/// A configuration that can run.
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The text of the file.
    pub source: Arc<str>,
    /// Warnings about what is probably not intended.
    pub warnings: Report,
    /// Where addresses to listen on are written.
    pub bind_places: BindPlaces,
}

/// The places of addresses to listen on, for errors of the system that concern one.
#[derive(Debug, Clone, Default)]
pub struct BindPlaces(Vec<(Bind, String)>);

impl BindPlaces {
    fn new(built: &build::Built, report: &Report) -> Self {
        let listeners = built.config.listeners.iter().zip(&built.places.listeners);
        let binds = listeners.flat_map(|(listener, place)| listener.binds.iter().zip(&place.binds));
        let admin = &built.config.admin;
        let of_admin = admin.bind.iter().zip(&built.places.admin_bind);
        let of_metrics = admin.metrics_bind.iter().zip(&built.places.metrics_bind);
        let all = binds.chain(of_admin).chain(of_metrics);
        Self(
            all.map(|(bind, span)| (bind.clone(), report.place(span.start)))
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

/// Leaves the file out, because it may contain secrets.
impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

/// Reads and checks the file at `path` and the files that it refers to, relative to its folder.
///
/// # Errors
/// All errors, together with the warnings.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    load_contents(input_file::read(path), path)
}

/// Reads and checks a configuration from `input`, and the files that it refers to, relative to the working
/// directory. Reports call it `name`.
///
/// # Errors
/// As [`load`].
pub fn load_stream(input: impl io::Read, name: &str) -> Result<Loaded, Report> {
    load_contents(input_file::read_stream(input), Path::new(name))
}

fn load_contents(contents: Contents, path: &Path) -> Result<Loaded, Report> {
    let text = contents.and_then(|bytes| match str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(io::Error::other("not valid UTF-8")),
    });
    match text {
        Ok(source) => parse(&source, path, &|name| std::env::var(name).ok()),
        Err(error) => {
            let file = path.display().to_string().into();
            let unreadable = unreadable::explain(path, &error);
            let message = format!("cannot read the file: {}", unreadable.why);
            let mut error = Diagnostic::of_file(Code::File, message);
            error.hint = unreadable.hint;
            Err(Report::new(file, "".into(), vec![error]))
        }
    }
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
    let mut diagnostics = Vec::new();
    let used = RefCell::new(Vec::new());
    let noted = |name: &str| {
        let value = environment(name)?;
        used.borrow_mut().push((name.to_owned(), value.clone()));
        Some(value)
    };
    let root = raw::read(source, &noted, &mut diagnostics);
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut built = build::build(&root, folder, &mut diagnostics);
    // Lints look at files without errors only, so they come last.
    check::check(&built, &mut diagnostics);
    lint::lint(&built, &mut diagnostics);
    diagnostics
        .retain(|each| each.severity == Severity::Error || !built.allowed.contains(&each.code));
    for diagnostic in &mut diagnostics {
        // Values of variables may be secrets: messages show the names instead.
        diagnostic.mask(&used.borrow());
    }
    let report = Report::new(
        path.display().to_string().into(),
        Arc::from(source),
        diagnostics,
    );
    if report.count(Severity::Error) > 0 {
        return Err(report);
    }
    let file = Input {
        path: path.to_owned(),
        hash: ContentHash::of_text(source),
    };
    let bind_places = BindPlaces::new(&built, &report);
    built.config.inputs.insert(0, file);
    Ok(Loaded {
        bind_places,
        config: built.config,
        source: source.into(),
        warnings: report,
    })
}
