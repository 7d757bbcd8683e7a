//! The texts that a configuration is read from, and places in them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_pattern::FilePattern;

/// One of the texts of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(usize);

/// A place in one of the texts.
//
// Every part of a report needs the text that a place is in, so neither is known without the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    source: SourceId,
    /// In bytes of the text.
    range: Range<usize>,
}

/// A text, and the file that it was read from.
#[derive(Clone)]
pub struct SourceText {
    path: PathBuf,
    name: Arc<str>,
    text: Arc<str>,
    /// Where each line begins, found once: there may be as many diagnostics as lines.
    line_starts: Arc<[usize]>,
}

/// All texts of a configuration: that of the main file, and those of the files that it includes.
#[derive(Debug, Clone)]
pub struct Sources {
    main: SourceText,
    included: Vec<SourceText>,
    /// Where the included files were looked for.
    patterns: Vec<FilePattern>,
    /// Those of them whose folders did not exist.
    missing: Vec<FilePattern>,
}

/// Files that were included, in a folder that does not exist any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostFiles {
    /// The folder.
    pub folder: PathBuf,
    /// How many there were.
    pub count: usize,
}

/// The line that a place begins in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceLine<'a> {
    /// From 1.
    pub(super) number: usize,
    pub(super) text: &'a str,
    /// The place within the line. One that goes on after it ends with the line.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl SourceId {
    /// The text of the main file.
    pub const MAIN: Self = Self(0);

    /// A place in this text, in bytes.
    pub fn span(self, range: Range<usize>) -> Span {
        Span {
            source: self,
            range,
        }
    }
}

impl Span {
    /// The text that the place is in.
    pub fn source(&self) -> SourceId {
        self.source
    }

    /// Where it begins, in bytes of the text.
    pub(super) fn start(&self) -> usize {
        self.range.start
    }

    /// What places are sorted by: the order of the texts, and within each the order of its bytes.
    pub(super) fn order(&self) -> (SourceId, usize, usize) {
        (self.source, self.range.start, self.range.end)
    }
}

/// Leaves the text out, because it may contain secrets.
impl fmt::Debug for SourceText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceText")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl SourceText {
    /// The text of the file at `path`.
    pub fn new(path: &Path, text: &str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            path: path.to_owned(),
            name: path.display().to_string().into(),
            line_starts: std::iter::once(0).chain(ends).collect(),
            text: text.into(),
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path, as reports show it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The text itself, which may contain secrets.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The folder of the file: names in the text are relative to it.
    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn line(&self, range: &Range<usize>) -> SourceLine<'_> {
        let starts = &self.line_starts;
        let number = starts.partition_point(|start| *start <= range.start).max(1);
        let first = starts.get(number - 1).copied().unwrap_or_default();
        let rest = self.text.get(first..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let start = (range.start - first).min(text.len());
        SourceLine {
            number,
            text,
            start,
            end: range.end.saturating_sub(first).clamp(start, text.len()),
        }
    }
}

impl Sources {
    /// The text of a main file, which includes nothing yet.
    pub fn new(main: SourceText) -> Self {
        Self {
            main,
            included: Vec::new(),
            patterns: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Adds the text of an included file.
    pub fn add(&mut self, text: SourceText) {
        self.included.push(text);
    }

    /// Adds a pattern that the included files were looked for with.
    pub(super) fn add_pattern(&mut self, pattern: FilePattern) {
        self.patterns.push(pattern);
    }

    /// Notes that the folder of a pattern does not exist.
    pub(super) fn add_missing(&mut self, pattern: FilePattern) {
        self.missing.push(pattern);
    }

    /// Included files of `earlier` that are not among these because their folder does not exist any more,
    /// although a pattern still looks for files there.
    pub fn lost_since(&self, earlier: &Self) -> Option<LostFiles> {
        let mut lost = self.missing.iter().map(|pattern| {
            let included = earlier.included.iter();
            let matching = included.filter(|text| pattern.matches_path(&text.path));
            LostFiles {
                folder: pattern.folder().to_owned(),
                count: matching.count(),
            }
        });
        lost.find(|lost| lost.count > 0)
    }

    /// The text of the main file.
    pub fn main(&self) -> &SourceText {
        &self.main
    }

    /// The texts of the included files, in order.
    pub fn included(&self) -> &[SourceText] {
        &self.included
    }

    /// The included texts, each with its id.
    pub(super) fn ids(&self) -> impl Iterator<Item = (SourceId, &SourceText)> {
        let included = self.included.iter().enumerate();
        included.map(|(at, text)| (SourceId(at + 1), text))
    }

    /// Where the included files were looked for.
    pub fn patterns(&self) -> &[FilePattern] {
        &self.patterns
    }

    /// The included files that match a pattern, in order.
    pub(super) fn matching(&self, pattern: &FilePattern) -> Vec<PathBuf> {
        let known = self.all().map(SourceText::path);
        let matching = known.filter(|path| pattern.matches_path(path));
        matching.map(Path::to_owned).collect()
    }

    /// All of them, that of the main file first.
    pub fn all(&self) -> impl Iterator<Item = &SourceText> {
        std::iter::once(&self.main).chain(&self.included)
    }

    /// The text with this id.
    pub(super) fn get(&self, id: SourceId) -> &SourceText {
        let included = id.0.checked_sub(1);
        let included = included.and_then(|at| self.included.get(at));
        included.unwrap_or(&self.main)
    }

    /// A place, as `FILE:LINE`.
    pub(super) fn place(&self, span: &Span) -> String {
        let name = self.get(span.source).name();
        format!("{name}:{}", self.line(span).number)
    }

    /// The line that a place begins in.
    pub(super) fn line(&self, span: &Span) -> SourceLine<'_> {
        self.get(span.source).line(&span.range)
    }
}
