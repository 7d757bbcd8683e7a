//! Diagnostics: everything that is wrong with a configuration file, with the lines that it concerns.

mod code;

pub use self::code::Code;

use std::fmt;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

/// The severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is rejected.
    Error,
    /// The file is accepted, but something in it is probably not intended.
    Warning,
}

/// One problem of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The severity.
    pub severity: Severity,
    /// The kind of problem, as a stable token.
    pub code: Code,
    /// The problem, in one sentence.
    pub message: String,
    /// Advice about the problem.
    pub hint: Option<String>,
    /// The place, in bytes of the file; `None` for the file as a whole.
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

    /// An error of the file as a whole.
    pub fn of_file(code: Code, message: impl Into<String>) -> Self {
        Self {
            span: None,
            ..Self::error(code, 0..0, message)
        }
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Replaces the values of environment variables by `${NAME}`, because they may be secrets.
    pub(super) fn mask(&mut self, variables: &[(String, String)]) {
        /// Shorter values are not secret, and would be found within unrelated words.
        const MIN_BYTES: usize = 4;
        for (name, value) in variables
            .iter()
            .filter(|(_, value)| value.len() >= MIN_BYTES)
        {
            let written = format!("${{{name}}}");
            self.message = self.message.replace(value, &written);
            self.hint = self.hint.take().map(|hint| hint.replace(value, &written));
        }
    }
}

/// The name in `known` that is most similar to `written`, if one is similar enough to suggest.
pub(super) fn nearest<'a>(written: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Names are suggested only if they are more similar than this.
    const SIMILARITY: f64 = 0.8;
    let rated = known
        .iter()
        .map(|known| (strsim::jaro_winkler(written, known), *known));
    let best = rated.max_by(|one, other| one.0.total_cmp(&other.0));
    best.filter(|(similarity, _)| *similarity > SIMILARITY)
        .map(|(_, near)| near)
}

/// All diagnostics about one file.
#[derive(Clone)]
pub struct Report {
    file: Arc<str>,
    source: Arc<str>,
    /// Where each line of the source begins, found once: there may be as many diagnostics as lines.
    line_starts: Arc<[usize]>,
    diagnostics: Vec<Diagnostic>,
}

/// A diagnostic in JSON. Lines and columns start at 1; columns count characters.
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

/// Leaves the file out, because it may contain secrets.
impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("file", &self.file)
            .field("diagnostics", &self.diagnostics)
            .finish_non_exhaustive()
    }
}

impl Report {
    /// A report about the file with this name and content; sorts the diagnostics by their places.
    pub fn new(file: Arc<str>, source: Arc<str>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics
            .sort_by_key(|diagnostic| diagnostic.span.as_ref().map(|span| (span.start, span.end)));
        let ends = source.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            file,
            line_starts: std::iter::once(0).chain(ends).collect(),
            source,
            diagnostics,
        }
    }

    /// The diagnostics, in the order of the file.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Whether the file is rejected.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// The number of diagnostics with this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.severity == severity)
            .count()
    }

    /// One log line per diagnostic: `file:line: message (hint) [code]`.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.diagnostics
            .iter()
            .map(|diagnostic| self.line(diagnostic))
    }

    /// One log line per error.
    pub fn error_lines(&self) -> impl Iterator<Item = String> + '_ {
        let errors = self.diagnostics.iter();
        let errors = errors.filter(|diagnostic| diagnostic.severity == Severity::Error);
        errors.map(|diagnostic| self.line(diagnostic))
    }

    /// Byte `at` of the file, as `FILE:LINE`.
    pub(super) fn place(&self, at: usize) -> String {
        let (number, ..) = self.line_at(at);
        format!("{}:{number}", self.file)
    }

    fn line(&self, diagnostic: &Diagnostic) -> String {
        let span = diagnostic.span.as_ref();
        let mut line = span.map_or_else(|| self.file.to_string(), |span| self.place(span.start));
        // Writing to a string does not fail.
        let _ = write!(line, ": {}", diagnostic.message);
        if let Some(hint) = &diagnostic.hint {
            let _ = write!(line, " ({hint})");
        }
        let _ = write!(line, " [{}]", diagnostic.code);
        line
    }

    /// The first error, and the number of further ones.
    pub fn one_line(&self) -> String {
        let errors = self.count(Severity::Error);
        let first = self.error_lines().next();
        match (first, errors) {
            (Some(line), 2..) => format!("{line}, and {} more", errors - 1),
            (Some(line), _) => line,
            (None, _) => format!("{}: no errors", self.file),
        }
    }

    /// The report for people: each diagnostic with its line of the file and its hint.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            let level = match diagnostic.severity {
                Severity::Error => Level::ERROR,
                Severity::Warning => Level::WARNING,
            };
            let title = level
                .primary_title(&diagnostic.message)
                .id(diagnostic.code.token());
            let mut group = match &diagnostic.span {
                Some(span) => {
                    let (number, start, line) = self.line_at(span.start);
                    // A span may be a whole table, and is shown up to the end of its first line.
                    let begin = (span.start - start).min(line.len());
                    let end = span.end.saturating_sub(start).clamp(begin, line.len());
                    title.element(
                        Snippet::source(line)
                            .path(&*self.file)
                            .line_start(number)
                            .annotation(AnnotationKind::Primary.span(begin..end)),
                    )
                }
                None => {
                    Group::with_title(title).element(annotate_snippets::Origin::path(&*self.file))
                }
            };
            if let Some(hint) = &diagnostic.hint {
                group = group.element(Level::HELP.message(hint));
            }
            text.push_str(&renderer.render(&[group]));
            text.push_str("\n\n");
        }
        text
    }

    /// The report in JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let records: Vec<DiagnosticRecord<'_>> = self
            .diagnostics
            .iter()
            .map(|diagnostic| {
                let position = diagnostic.span.as_ref().map(|span| {
                    let (number, start, _) = self.line_at(span.start);
                    let before = self.source.get(start..span.start).unwrap_or_default();
                    (number, before.chars().count() + 1)
                });
                let (line, column) = position.unzip();
                DiagnosticRecord {
                    file: &self.file,
                    line,
                    column,
                    severity: diagnostic.severity,
                    code: diagnostic.code,
                    message: &diagnostic.message,
                    hint: diagnostic.hint.as_deref(),
                }
            })
            .collect();
        serde_json::json!(records)
    }

    /// The line that byte `at` is in: its number, where it begins, and its text.
    fn line_at(&self, at: usize) -> (usize, usize, &str) {
        let starts = &self.line_starts;
        let number = starts.partition_point(|start| *start <= at).max(1);
        let start = starts.get(number - 1).copied().unwrap_or_default();
        let rest = self.source.get(start..).unwrap_or_default();
        (number, start, rest.lines().next().unwrap_or_default())
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
