//! Strings: variables in them, of the environment and of requests.

use super::super::variable::{counterpart, foreign_variable};
use super::Reader;
use crate::config::diagnostic::{Code, Diagnostic};
use crate::config::model::{Piece, Template, Variable};
use crate::config::sources::Span;

impl Reader<'_> {
    /// Replaces `${NAME}` by the environment variable.
    pub(super) fn expand(&mut self, text: &str, span: Span) -> Option<String> {
        let pieces = self.pieces(text, span, &|_| None)?;
        let text = |piece| match piece {
            Piece::Text(text) => Some(String::from(text)),
            Piece::Variable(_) => None,
        };
        pieces.into_iter().map(text).collect()
    }

    /// The same, but keeps variables that stand for properties of a request.
    pub(super) fn template(&mut self, text: &str, span: Span) -> Option<Template> {
        self.pieces(text, span, &Variable::named).map(Template::new)
    }

    fn pieces(
        &mut self,
        text: &str,
        span: Span,
        variable: &dyn Fn(&str) -> Option<Variable>,
    ) -> Option<Vec<Piece>> {
        let mut pieces = Vec::new();
        let mut before = String::with_capacity(text.len());
        let mut rest = text;
        let takes_variables = variable("host").is_some();
        self.warn_of_foreign_variable(text, takes_variables, span.clone());
        while let Some((text, after)) = rest.split_once("${") {
            before.push_str(text);
            let Some((name, after)) = after.split_once('}') else {
                self.invalid(span, "`${` is not closed by `}`".to_owned());
                return None;
            };
            if let Some(variable) = variable(name) {
                pieces.push(Piece::Text(std::mem::take(&mut before).into()));
                pieces.push(Piece::Variable(variable));
            } else if let Some(value) = (self.environment)(name) {
                before.push_str(&value);
            } else {
                self.not_set(name, takes_variables, span);
                return None;
            }
            rest = after;
        }
        before.push_str(rest);
        pieces.push(Piece::Text(before.into()));
        Some(pieces)
    }

    fn not_set(&mut self, name: &str, takes_variables: bool, span: Span) {
        let message = format!("environment variable `{name}` is not set");
        let hint = match counterpart(name).flatten() {
            Some(ours) if takes_variables => format!("did you mean `{ours}`?"),
            None if takes_variables => {
                let names = Variable::NAMES.join(", ");
                format!("the variables of a request are: {names}")
            }
            _ => {
                "set it here and where tidegate runs, e.g. by `Environment=` in its unit".to_owned()
            }
        };
        let error = Diagnostic::error(Code::Environment, span, message);
        self.diagnostics.push(error.hint(hint));
    }

    fn warn_of_foreign_variable(&mut self, text: &str, takes_variables: bool, span: Span) {
        let Some(found) = foreign_variable(text) else {
            return;
        };
        let message = format!(
            "`{}` is not replaced: tidegate writes variables as `${{NAME}}`",
            found.written
        );
        let hint = match found.instead {
            Some(ours) if takes_variables || found.is_of_environment => format!("write `{ours}`"),
            _ if takes_variables => {
                format!("the variables of a request are: {}", Variable::NAMES.join(", "))
            }
            _ => "properties of a request are available only in `set` of `request_headers` and `response_headers`, and in `redirect.to`".to_owned(),
        };
        let warning = Diagnostic::warning(Code::NotExpanded, span, message);
        self.diagnostics.push(warning.hint(hint));
    }
}
