//! A finished span.

use std::time::SystemTime;

use crate::protocol::trace_context::{SpanId, TraceId};

/// The longest text of an attribute, in bytes: a path may be as long as a request's head.
const MAX_TEXT_BYTES: usize = 1024;

/// Where a span belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanIds {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// The span that has caused it.
    pub parent: Option<SpanId>,
}

/// What a span is, to those who draw traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// Something within the process.
    Internal = 1,
    /// The answer to a request.
    Server = 2,
}

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedSpan {
    /// Its place in the trace.
    pub ids: SpanIds,
    /// Whether its parent is in another process.
    pub is_parent_remote: bool,
    /// What it is.
    pub kind: SpanKind,
    /// What it is called.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What is known about it.
    pub attributes: Attributes,
    /// Whether it failed, and not by a fault of the client.
    pub has_failed: bool,
}

/// The attributes of a span, with bounded texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes(Vec<(&'static str, AttributeValue)>);

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(Box<str>),
    /// A number.
    Number(i64),
}

impl Attributes {
    /// Adds a text, the end of which is cut off if it is too long.
    pub fn text(&mut self, name: &'static str, text: &str) {
        self.0
            .push((name, AttributeValue::Text(bounded(text).into())));
    }

    /// Adds a text, if there is one.
    pub fn text_if(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    /// Adds a number.
    pub fn number(&mut self, name: &'static str, number: u64) {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        self.0.push((name, AttributeValue::Number(number)));
    }

    /// The attributes in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &(&'static str, AttributeValue)> {
        self.0.iter()
    }
}

/// The text, or as much of its beginning as an attribute may have.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        let mut attributes = Attributes::default();
        attributes.text("url.path", &"\u{e9}x".repeat(1000));
        attributes.text("short", "caf\u{e9}");
        let lengths = attributes.iter().map(|(_, value)| match value {
            AttributeValue::Text(text) => text.len(),
            AttributeValue::Number(_) => 0,
        });
        assert_eq!(lengths.collect::<Vec<_>>(), [1023, 5]);
    }
}
