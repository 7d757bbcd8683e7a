//! The names that parts of a configuration refer to each other by.

use std::collections::HashSet;

use crate::config::diagnostic::{Code, Diagnostic, nearest};
use crate::config::sources::Span;

/// The names of all listeners or upstreams that a file has.
pub(super) struct KnownNames<'a> {
    /// `listener` or `upstream`.
    kind: &'static str,
    in_order: Vec<&'a str>,
    set: HashSet<&'a str>,
    /// Whether the file may mean others: a table whose name is wrong was reported.
    are_all: bool,
}

impl<'a> KnownNames<'a> {
    pub(super) fn new(kind: &'static str, names: Option<&'a Vec<String>>) -> Self {
        let in_order: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
        Self {
            kind,
            set: in_order.iter().copied().collect(),
            in_order,
            are_all: names.is_some(),
        }
    }

    /// The error about `name`, if nothing has it.
    pub(super) fn check(&self, name: &str, span: &Span) -> Option<Diagnostic> {
        let is_dangling = self.are_all && !self.set.contains(name);
        is_dangling.then(|| dangling(self.kind, name, &self.in_order, span))
    }
}

fn dangling(kind: &str, name: &str, known: &[&str], span: &Span) -> Diagnostic {
    let message = format!("there is no {kind} `{name}`");
    Diagnostic::error(Code::Dangling, span.clone(), message).hint(match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("add `[{kind}.{name}]`"),
        None => format!("the configuration has: {}", known.join(", ")),
    })
}
