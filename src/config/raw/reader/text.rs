//! Strings: variables in them, of the environment and of requests.

use super::super::variable::{counterpart, foreign_variable};
use super::Reader;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Piece, Template, Variable};
use crate::config::sources::Span;

/// Which variables a string may have besides those of the environment.
#[derive(Clone, Copy)]
enum TextVariables {
    None,
    OfRequest,
}

impl TextVariables {
    fn named(self, name: &str) -> Option<Piece> {
        match self {
            Self::None => None,
            Self::OfRequest => match name.strip_prefix("claim_") {
                Some(claim) if !claim.is_empty() => Some(Piece::Claim(claim.into())),
                _ => Variable::named(name).map(Piece::Variable),
            },
        }
    }
}

/// What can stand in a string that may have variables of a request.
fn variables_of_requests() -> String {
    let names = Variable::NAMES.join(", ");
    format!("the variables of a request are: {names}, and `claim_` with the name of a claim")
}

impl Reader<'_> {
    /// Replaces `${NAME}` by the environment variable.
    pub(super) fn expand(&mut self, text: &str, span: Span) -> Option<String> {
        let pieces = self.pieces(text, span, TextVariables::None)?;
        let text = |piece| match piece {
            Piece::Text(text) => Some(String::from(text)),
            Piece::Variable(_) | Piece::Claim(_) => None,
        };
        pieces.into_iter().map(text).collect()
    }

    /// The same, but keeps variables that stand for properties of a request.
    pub(super) fn template(&mut self, text: &str, span: Span) -> Option<Template> {
        self.pieces(text, span, TextVariables::OfRequest)
            .map(Template::new)
    }

    fn pieces(&mut self, text: &str, span: Span, variables: TextVariables) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut before = String::with_capacity(text.len());
        let mut rest = text;
        self.warn_of_foreign_variable(text, variables, span.clone());
        while let Some((text, after)) = rest.split_once("${") {
            before.push_str(text);
            let Some((name, after)) = after.split_once('}') else {
                self.invalid(span, "`${` is not closed by `}`".to_owned());
                return None;
            };
            if let Some(variable) = variables.named(name) {
                pieces.push(Piece::Text(std::mem::take(&mut before).into()));
                pieces.push(variable);
            } else if let Some(value) = (self.environment)(name) {
                before.push_str(&value);
            } else {
                self.not_set(name, variables, span);
                return None;
            }
            rest = after;
        }
        before.push_str(rest);
        pieces.push(Piece::Text(before.into()));
        Some(pieces)
    }

    fn not_set(&mut self, name: &str, variables: TextVariables, span: Span) {
        let message = format!("environment variable `{name}` is not set");
        let hint = match (variables, counterpart(name).flatten()) {
            (TextVariables::OfRequest, Some(ours)) => format!("did you mean `{ours}`?"),
            (TextVariables::OfRequest, None) => variables_of_requests(),
            (TextVariables::None, _) => {
                "set it here and where tidegate runs, e.g. by `Environment=` in its unit".to_owned()
            }
        };
        let error = Diagnostic::error(Code::Environment, span, message);
        self.diagnostics.push(error.hint(hint));
    }

    fn warn_of_foreign_variable(&mut self, text: &str, variables: TextVariables, span: Span) {
        let Some(found) = foreign_variable(text) else {
            return;
        };
        let message = format!(
            "`{}` is not replaced: tidegate writes variables as `${{NAME}}`",
            found.written
        );
        let hint = match (variables, found.instead) {
            (TextVariables::OfRequest, Some(ours)) => format!("write `{ours}`"),
            (TextVariables::None, Some(ours)) if found.is_of_environment => {
                format!("write `{ours}`")
            }
            (TextVariables::OfRequest, None) => variables_of_requests(),
            (TextVariables::None, _) => "only `request_headers.set`, `response_headers.set` and `redirect.to` may have variables of a request; variables of the environment may stand in any string".to_owned(),
        };
        let warning = Diagnostic::warning(Code::NotExpanded, span, message);
        self.diagnostics.push(warning.hint(hint));
    }
}
