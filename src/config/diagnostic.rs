//! What is wrong with a configuration file, all of it at once, with the lines under it.

mod code;

pub use self::code::Code;

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not taken.
    Error,
    /// The file is taken, but something in it is probably not meant so.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing, as a stable token.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where, as bytes of the file; `None` for the file as a whole.
    pub span: Option<Range<usize>>,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            hint: None,
            span: Some(span),
        }
    }

    /// A warning.
    pub fn warning(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    /// About the file as a whole.
    pub fn of_file(code: Code, message: impl Into<String>) -> Self {
        Self {
            span: None,
            ..Self::error(code, 0..0, message)
        }
    }

    /// With advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `${NAME}` in place of the value of each of these variables.
    pub(super) fn mask(&mut self, variables: &[(String, String)]) {
        /// Bytes of a value below which it says nothing, and would be found anywhere.
        const LEAST: usize = 4;
        for (name, value) in variables.iter().filter(|(_, value)| value.len() >= LEAST) {
            let written = format!("${{{name}}}");
            self.message = self.message.replace(value, &written);
            self.hint = self.hint.take().map(|hint| hint.replace(value, &written));
        }
    }
}

/// The name among `known` that `written` was probably meant to be.
pub(super) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this, two names have nothing to do with each other.
    const LIKENESS: f64 = 0.8;
    let rated = known
        .iter()
        .map(|known| (strsim::jaro_winkler(written, known), *known));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(likeness, _)| *likeness > LIKENESS)
        .map(|(_, near)| near)
}

/// Everything that is wrong with one file.
#[derive(Clone)]
pub struct Report {
    file: Arc<str>,
    source: Arc<str>,
    diagnostics: Vec<Diagnostic>,
}

/// A diagnostic for machines. Lines and columns begin at 1; columns count characters.
#[derive(Debug, Serialize)]
struct DiagnosticRecord<'a> {
    file: &'a str,
    line: Option<usize>,
    column: Option<usize>,
    severity: Severity,
    code: Code,
    message: &'a str,
    hint: Option<&'a str>,
}

/// Without the file, which may have secrets in it.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("file", &self.file)
            .field("diagnostics", &self.diagnostics)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// On the file of this name and content; in the order of the file.
    pub fn new(file: Arc<str>, source: Arc<str>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|each| each.span.as_ref().map(|span| (span.start, span.end)));
        Self {
            file,
            source,
            diagnostics,
        }
    }

    /// What is wrong, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether the file must not be taken.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many there are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|each| each.severity == severity)
            .count()
    }

    /// One line for each, for logs: `file:line: message (hint) [code]`.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.diagnostics.iter().map(|each| self.line(each))
    }

    /// The same for errors only.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self.diagnostics.iter();
        let errors = errors.filter(|each| each.severity == Severity::Error);
        errors.map(|each| self.line(each))
    }

    fn line(&self, each: &Diagnostic) -> String {
        let mut line = self.file.to_string();
        if let Some((number, _)) = self.position(each) {
            // Writing to a string does not fail.
            let _ = write!(line, ":{number}");
        }
        let _ = write!(line, ": {}", each.message);
        if let Some(hint) = &each.hint {
            let _ = write!(line, " ({hint})");
        }
        let _ = write!(line, " [{}]", each.code);
        line
    }

    /// The first error, and how many more there are.
    pub fn one_line(&self) -> String {
        let errors = self.count(Severity::Error);
        let first = self.error_lines().next();
        match (first, errors) {
            (Some(line), 2..) => format!("{line}, and {} more", errors - 1),
            (Some(line), _) => line,
            (None, _) => format!("{}: no errors", self.file),
        }
    }

    /// For a person: each with its line and what to do about it.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = String::new();
        for each in &self.diagnostics {
            let level = match each.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let title = level.primary_title(&each.message).id(each.code.token());
            let mut group = match &each.span {
                Some(span) => title.element(
                    Snippet::source(&*self.source)
                        .path(&*self.file)
                        .annotation(AnnotationKind::Primary.span(self.visible(span))),
                ),
                None => {
                    Group::with_title(title).element(annotate_snippets::Origin::path(&*self.file))
                }
            };
            if let Some(hint) = &each.hint {
                group = group.element(Level::HELP.message(hint));
            }
            text.push_str(&renderer.render(&[group]));
            text.push_str("\n\n");
        }
        text
    }

    /// For machines.
    pub fn to_json(&self) -> serde_json::Value {
        let records: Vec<DiagnosticRecord<'_>> = self
            .diagnostics
            .iter()
            .map(|each| {
                let (line, column) = self.position(each).unzip();
                DiagnosticRecord {
                    file: &self.file,
                    line,
                    column,
                    severity: each.severity,
                    code: each.code,
                    message: &each.message,
                    hint: each.hint.as_deref(),
                }
            })
            .collect();
        serde_json::json!(records)
    }

    fn position(&self, diagnostic: &Diagnostic) -> Option<(usize, usize)> {
        let before = self.source.get(..diagnostic.span.as_ref()?.start)?;
        let line = before.rsplit('\n').next().unwrap_or_default();
        Some((before.matches('\n').count() + 1, line.chars().count() + 1))
    }

    /// The part of a span on its first line: a table that is wrong as a whole is not shown whole.
    fn visible(&self, span: &Range<usize>) -> Range<usize> {
        let text = self.source.get(span.clone()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        span.start..span.start + line.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(
            "tidegate.toml".into(),
            "[server]\nworkers = 0\n".into(),
            vec![
                Diagnostic::warning(Code::NotInEffect, 9..16, "not in effect"),
                Diagnostic::error(Code::Value, 19..20, "too small").hint("at least 1"),
            ],
        )
    }

    #[test]
    fn a_line_for_each() {
        let lines: Vec<String> = report().lines().collect();
        assert_eq!(
            lines,
            [
                "tidegate.toml:2: not in effect [not-in-effect]",
                "tidegate.toml:2: too small (at least 1) [value]"
            ]
        );
        assert_eq!(
            report().one_line(),
            "tidegate.toml:2: too small (at least 1) [value]"
        );
    }

    #[test]
    fn positions_for_machines() {
        let json = report().to_json();
        assert_eq!(json[1]["line"], 2);
        assert_eq!(json[1]["column"], 11);
        assert_eq!(json[1]["severity"], "error");
        assert_eq!(json[0]["hint"], serde_json::Value::Null);
    }

    #[test]
    fn the_line_itself_is_shown() {
        let text = report().render(false);
        assert!(text.contains("workers = 0"), "{text}");
        assert!(text.contains("at least 1"), "{text}");
        assert!(text.contains("tidegate.toml:2:11"), "{text}");
    }
}
