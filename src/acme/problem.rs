//! What an authority says about a failure, as part of a log line.

use instant_acme::Problem;

/// The longest text of an authority that is shown, in characters.
const MAX_SHOWN: usize = 500;

/// What begins the types of problems (RFC 8555 section 6.7).
const PROBLEM_TYPES: &str = "urn:ietf:params:acme:error:";

/// The type of a problem without what all of them begin with.
pub(super) fn problem_type(written: Option<&str>) -> &str {
    let written = written.unwrap_or_default();
    written.strip_prefix(PROBLEM_TYPES).unwrap_or(written)
}

/// What an authority says about a problem, and about each name.
pub(super) fn problem_text(problem: &Problem) -> String {
    let mut text = said(problem.detail.as_deref(), problem.r#type.as_deref());
    for part in &problem.subproblems {
        let about = part
            .identifier
            .as_ref()
            .map(|name| name.authorized(false).to_string());
        let about = about.map_or(String::new(), |name| format!("{name}: "));
        let detail = said(part.detail.as_deref(), part.r#type.as_deref());
        text.push_str(&format!("; {about}{detail}"));
    }
    one_line(&text)
}

fn said(detail: Option<&str>, kind: Option<&str>) -> String {
    match (detail.unwrap_or_default(), problem_type(kind)) {
        ("", "") => "no reason is given".to_owned(),
        ("", kind) => kind.to_owned(),
        (detail, "") => detail.to_owned(),
        (detail, kind) => format!("{detail} ({kind})"),
    }
}

/// Text of a stranger as part of a log line.
pub(super) fn one_line(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut shown: String = shown.take(MAX_SHOWN).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(one_line(&"ä".repeat(600)).chars().count(), MAX_SHOWN + 1);
        assert_eq!(one_line("short"), "short");
    }
}
