//! What the TOML parser reports, without what merely follows from a reported error.

use std::ops::Range;

use toml::de::Error;

use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::sources::SourceId;

/// Reports the errors of the parser. Returns the part of the file below each table header that is broken:
/// its keys seem to belong to the table above.
pub(super) fn report(
    id: SourceId,
    source: &str,
    errors: Vec<Error>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<Range<usize>> {
    let line_ends: Vec<usize> = source.match_indices('\n').map(|(at, _)| at).collect();
    let mut broken_headers = Vec::new();
    let mut in_array = false;
    let mut last_line = None;
    for error in errors {
        let message = error.message().trim_end_matches('\n').replace('\n', ", ");
        let span = error.span();
        let line = span.map(|span| line_ends.partition_point(|end| *end < span.start));
        // One mistake causes several parser errors: for the rest of its line, and if it leaves an
        // array open, for every line after it. Only the first one helps.
        let repeated =
            (line.is_some() && line == last_line) || (in_array && message.contains("array"));
        (in_array, last_line) = (message.contains("array"), line);
        if repeated {
            continue;
        }
        let Some(span) = error.span() else {
            let whole = id.span(0..0);
            diagnostics.push(Diagnostic::error(Code::Syntax, whole, message));
            continue;
        };
        broken_headers.extend(below_header(source, span.start));
        diagnostics.push(Diagnostic::error(Code::Syntax, id.span(span), message));
    }
    broken_headers.sort_by_key(|part: &Range<usize>| part.start);
    broken_headers
}

/// If byte `at` is in a table header: the part of the file from this header to the next one.
fn below_header(source: &str, at: usize) -> Option<Range<usize>> {
    let (before, after) = (source.get(..at)?, source.get(at..)?);
    let line = before.rsplit('\n').next().unwrap_or_default();
    let start = at - line.len();
    if !line.trim_start().starts_with('[') || line.contains('=') {
        return None;
    }
    let mut end = at;
    for (number, line) in after.split_inclusive('\n').enumerate() {
        if number > 0 && line.trim_start().starts_with('[') {
            break;
        }
        end += line.len();
    }
    Some(start..end)
}

/// Drops what merely follows from a broken header.
pub(super) fn drop_consequences(
    broken_headers: &[Range<usize>],
    diagnostics: &mut Vec<Diagnostic>,
) {
    let is_dropped = |at: usize| {
        let before = broken_headers.partition_point(|part| part.start <= at);
        let last = before
            .checked_sub(1)
            .and_then(|last| broken_headers.get(last));
        last.is_some_and(|part| part.contains(&at))
    };
    diagnostics.retain(|each| {
        let span = each.span.as_ref();
        each.code == Code::Syntax || !span.is_some_and(|span| is_dropped(span.start()))
    });
}
