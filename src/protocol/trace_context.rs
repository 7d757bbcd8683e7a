//! The trace that a request belongs to (W3C Trace Context): its id for our logs, and a new trace
//! for requests without one.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field with a trace's id.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The field with vendor-specific data about a trace, which has no meaning without `traceparent`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of a trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceId {
    /// The trace that a request belongs to; `None` without exactly one valid `traceparent`.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else {
            return None;
        };
        Self::parse(line.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut part = |length| {
            let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let part = parts.next().filter(|part| part.len() == length)?;
            part.bytes().all(lower).then_some(part)
        };
        let (version, trace) = (part(2)?, part(32)?);
        let (span, _flags) = (part(16)?, part(2)?);
        // Version 00 has exactly four parts; later versions may have more.
        let whole = parts.next().is_none() || version != "00";
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let valid = version != "ff" && trace != 0 && span.bytes().any(|byte| byte != b'0');
        (whole && valid).then_some(Self(trace))
    }

    /// A new trace from random bytes: its id, and the `traceparent` field. The trace is marked as
    /// sampled, because nothing before the endpoint has decided about that.
    pub fn generate(random: [u8; 24]) -> Option<(Self, HeaderValue)> {
        let (trace, span) = random.split_at(16);
        let trace = u128::from_be_bytes(trace.try_into().ok()?);
        let span = u64::from_be_bytes(span.try_into().ok()?);
        let id = Self(trace.max(1));
        let field = format!("00-{id}-{:016x}-01", span.max(1));
        Some((id, HeaderValue::try_from(field).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[track_caller]
    fn check(lines: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, HeaderValue::from_str(line).unwrap());
        }
        let id = TraceId::of(&headers).map(|id| id.to_string());
        assert_eq!(id.as_deref(), expected, "{lines:?}");
    }

    #[test]
    fn a_valid_field_names_a_trace() {
        let rest = "00f067aa0ba902b7-01";
        let good = format!("00-{ID}-{rest}");
        check(&[&good], Some(ID));
        check(&[&format!("01-{ID}-{rest}-more")], Some(ID));
        check(&[], None);
        check(&[&good, &good], None);
        for bad in [
            format!("00-{ID}-{rest}-more"),
            format!("ff-{ID}-{rest}"),
            format!("00-{}-{rest}", "0".repeat(32)),
            format!("00-{ID}-{}-01", "0".repeat(16)),
            format!("00-{}-{rest}", ID.to_uppercase()),
            format!("00-{ID}-{rest} "),
            format!("00-{ID}0-{rest}"),
            format!("00-{ID}"),
            format!("+0-{ID}-{rest}"),
        ] {
            check(&[&bad], None);
        }
    }

    #[test]
    fn generated_traces_are_valid() {
        for random in [[0; 24], [0xab; 24]] {
            let (id, field) = TraceId::generate(random).unwrap();
            check(&[field.to_str().unwrap()], Some(&id.to_string()));
        }
    }
}
