//! Claims: what is known about the identity that was established for a request (RFC 7519 section 4).

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::config::model::ClaimRule;

/// The longest text of a claim that becomes a key or part of a header, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// The claims of an identity.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// These claims.
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// The claim of this name. A name that no claim has leads into objects at its dots.
    fn get(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.as_object()?.get(part))
    }

    /// A claim as text: a string as it is, a number or a boolean as JSON has it, the items of a list with commas
    /// between them. `None` if it is missing, empty, an object, too long, or not fit for a header.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let text = match self.get(name)? {
            Value::Array(items) => {
                let items: Option<Vec<_>> = items.iter().map(plain_text).collect();
                Cow::Owned(items?.join(","))
            }
            value => plain_text(value)?,
        };
        let is_fit =
            !text.is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
        is_fit.then_some(text)
    }

    /// Whether the claims have what every rule requires.
    pub fn satisfy(&self, rules: &[ClaimRule]) -> bool {
        rules.iter().all(|rule| self.satisfies(rule))
    }

    fn satisfies(&self, rule: &ClaimRule) -> bool {
        let is_listed = |value: &Value| {
            plain_text(value).is_some_and(|text| rule.values.iter().any(|it| **it == *text))
        };
        match self.get(&rule.claim) {
            Some(Value::Array(items)) => items.iter().any(is_listed),
            Some(value) => is_listed(value),
            None => false,
        }
    }
}

/// The text of a value that is not made of others.
fn plain_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(value) => Some(Cow::Borrowed(if *value { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(map) => Claims::new(map),
            _ => Claims::default(),
        }
    }

    #[test]
    fn claims_have_texts() {
        let claims = claims(json!({
            "sub": "me", "level": 3, "admin": true, "roles": ["a", "b"], "empty": "",
            "realm": { "roles": ["c"] }, "https://example.com/team": "red", "line": "a\r\nb",
            "mixed": ["a", {}], "nothing": null, "long": "x".repeat(MAX_TEXT_BYTES + 1),
        }));
        for (name, text) in [
            ("sub", Some("me")),
            ("level", Some("3")),
            ("admin", Some("true")),
            ("roles", Some("a,b")),
            ("realm.roles", Some("c")),
            ("https://example.com/team", Some("red")),
            ("realm", None),
            ("empty", None),
            ("line", None),
            ("mixed", None),
            ("nothing", None),
            ("long", None),
            ("sub.more", None),
            ("other", None),
            ("", None),
        ] {
            assert_eq!(claims.text(name).as_deref(), text, "{name}");
        }
    }

    #[test]
    fn every_rule_must_be_satisfied() {
        let claims = claims(json!({ "role": ["player", "mod"], "level": 3, "sub": "me" }));
        let rule = |claim: &str, values: &[&str]| ClaimRule {
            claim: claim.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
        };
        for (rules, passes) in [
            (vec![], true),
            (vec![rule("role", &["player"])], true),
            (vec![rule("role", &["admin", "mod"])], true),
            (vec![rule("role", &["admin"])], false),
            (vec![rule("role", &["player,mod"])], false),
            (vec![rule("level", &["3"]), rule("sub", &["me"])], true),
            (vec![rule("level", &["3"]), rule("sub", &["you"])], false),
            (vec![rule("team", &["red"])], false),
            (vec![rule("role", &[])], false),
        ] {
            assert_eq!(claims.satisfy(&rules), passes, "{rules:?}");
        }
    }
}
