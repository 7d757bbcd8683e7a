//! Diagnostics: everything that is wrong with a configuration, with the lines that it concerns.

mod code;

pub use self::code::Code;

use std::fmt::Write as _;
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::sources::{SourceId, SourceLine, Sources, Span};

/// The severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is rejected.
    Error,
    /// The file is accepted, but something in it is probably not intended.
    Warning,
}

/// One problem of a configuration.
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
    /// The place; `None` for the configuration as a whole.
    pub span: Option<Span>,
    /// Where the first of two is, if the second one is the problem.
    pub first: Option<Span>,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            hint: None,
            span: Some(span),
            first: None,
        }
    }

    /// A warning.
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, span, message)
        }
    }

    /// An error of the configuration as a whole.
    pub fn of_file(code: Code, message: impl Into<String>) -> Self {
        Self {
            span: None,
            ..Self::error(code, SourceId::MAIN.span(0..0), message)
        }
    }

    /// Adds advice.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Shows where the first of two is.
    pub(super) fn first(mut self, first: &Span) -> Self {
        self.first = Some(first.clone());
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

/// The name in `known` other than `written` itself that is most similar to it. Names are compared with one
/// another only in files with few of them.
pub(super) fn nearest_other<'a>(
    written: &str,
    known: impl ExactSizeIterator<Item = &'a str>,
) -> Option<&'a str> {
    const FEW: usize = 100;
    if known.len() > FEW {
        return None;
    }
    let others: Vec<&str> = known.filter(|other| *other != written).collect();
    nearest(written, &others)
}

/// All diagnostics about one configuration.
#[derive(Debug, Clone)]
pub struct Report {
    sources: Arc<Sources>,
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
    /// Where the first of two is, as `FILE:LINE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
}

impl Report {
    /// A report about these texts; sorts the diagnostics by their places.
    pub fn new(sources: Arc<Sources>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.as_ref().map(Span::order));
        Self {
            sources,
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

    fn line(&self, diagnostic: &Diagnostic) -> String {
        let place = |span| self.sources.place(span);
        let mut line = match &diagnostic.span {
            Some(span) => place(span),
            None => self.sources.main().name().to_owned(),
        };
        // Writing to a string does not fail.
        let _ = write!(line, ": {}", diagnostic.message);
        if let Some(first) = &diagnostic.first {
            let _ = write!(line, " (the first one is at {})", place(first));
        }
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
            (None, _) => format!("{}: no errors", self.sources.main().name()),
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
                Some(span) => title.element(self.snippet(span, AnnotationKind::Primary, None)),
                None => {
                    let main = self.sources.main().name();
                    Group::with_title(title).element(annotate_snippets::Origin::path(main))
                }
            };
            if let Some(first) = &diagnostic.first {
                let label = Some("the first one");
                group = group.element(self.snippet(first, AnnotationKind::Context, label));
            }
            if let Some(hint) = &diagnostic.hint {
                group = group.element(Level::HELP.message(hint));
            }
            text.push_str(&renderer.render(&[group]));
            text.push_str("\n\n");
        }
        text
    }

    /// A place, with its line.
    fn snippet<'a>(
        &'a self,
        span: &Span,
        kind: AnnotationKind,
        label: Option<&'a str>,
    ) -> Snippet<'a, Annotation<'a>> {
        // A span may be a whole table, and is shown up to the end of its first line.
        let SourceLine {
            number,
            text,
            start,
            end,
        } = self.sources.line(span);
        Snippet::source(text)
            .path(self.sources.get(span.source()).name())
            .line_start(number)
            .annotation(kind.span(start..end).label(label))
    }

    /// The report in JSON.
    pub fn to_json(&self) -> serde_json::Value {
        let records: Vec<DiagnosticRecord<'_>> = self
            .diagnostics
            .iter()
            .map(|diagnostic| {
                let span = diagnostic.span.as_ref();
                let source = span.map_or(SourceId::MAIN, Span::source);
                let position = span.map(|span| {
                    let line = self.sources.line(span);
                    let before = line.text.get(..line.start).unwrap_or_default();
                    (line.number, before.chars().count() + 1)
                });
                let first = diagnostic.first.as_ref();
                let (line, column) = position.unzip();
                DiagnosticRecord {
                    file: self.sources.get(source).name(),
                    line,
                    column,
                    severity: diagnostic.severity,
                    code: diagnostic.code,
                    message: &diagnostic.message,
                    hint: diagnostic.hint.as_deref(),
                    first: first.map(|first| self.sources.place(first)),
                }
            })
            .collect();
        serde_json::json!(records)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::sources::SourceText;
    use super::*;

    fn report() -> Report {
        let text = SourceText::new(Path::new("tidegate.toml"), "[server]\nworkers = 0\n");
        let at = |range| SourceId::MAIN.span(range);
        Report::new(
            Sources::new(text).into(),
            vec![
                Diagnostic::warning(Code::NoEffect, at(9..16), "no effect"),
                Diagnostic::error(Code::Value, at(19..20), "too small").hint("at least 1"),
            ],
        )
    }

    #[test]
    fn a_line_for_each() {
        let lines: Vec<String> = report().lines().collect();
        assert_eq!(
            lines,
            [
                "tidegate.toml:2: no effect [no-effect]",
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
