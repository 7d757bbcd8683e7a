//! The trace that a request belongs to (W3C Trace Context): the `traceparent` field that it comes with, and the
//! one that it goes on with.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field with a trace's id.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The field with vendor-specific data about a trace, which has no meaning without `traceparent`.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag of a trace that its caller records.
pub const SAMPLED: u8 = 1;

/// The id of a trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The id of a span, a part of a trace; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl SpanId {
    /// A new id from random bytes.
    pub fn generate(random: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(random).max(1))
    }
}

/// A `traceparent` field: the trace of a request, and the span that has caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
    /// Whether the sender of the field records the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// The field of a request; `None` without exactly one that is valid.
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
        let (span, flags) = (part(16)?, part(2)?);
        // Version 00 has exactly four parts; later versions may have more.
        let whole = parts.next().is_none() || version != "00";
        let trace = u128::from_str_radix(trace, 16).ok()?;
        let span = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let valid = version != "ff" && trace != 0 && span != 0;
        (whole && valid).then_some(Self {
            trace: TraceId(trace),
            span: SpanId(span),
            is_sampled: flags & SAMPLED != 0,
        })
    }

    /// A new trace from random bytes, marked as sampled.
    pub fn generate(random: [u8; 24]) -> Self {
        let [a, b, c] = split(random);
        let trace = u128::from(u64::from_be_bytes(a)) << 64 | u128::from(u64::from_be_bytes(b));
        Self {
            trace: TraceId(trace.max(1)),
            span: SpanId::generate(c),
            is_sampled: true,
        }
    }

    /// The field. Of the flags it has only the one that is known here, as the standard demands.
    pub fn field(self) -> Option<HeaderValue> {
        let Self {
            trace,
            span,
            is_sampled,
        } = self;
        let flags = if is_sampled { SAMPLED } else { 0 };
        HeaderValue::try_from(format!("00-{trace}-{span}-{flags:02x}")).ok()
    }
}

fn split(random: [u8; 24]) -> [[u8; 8]; 3] {
    let mut parts = [[0; 8]; 3];
    for (part, bytes) in parts.iter_mut().zip(random.chunks_exact(8)) {
        part.copy_from_slice(bytes);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[track_caller]
    fn check(lines: &[&str], expected: Option<(&str, bool)>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACEPARENT, HeaderValue::from_str(line).unwrap());
        }
        let context = TraceContext::of(&headers);
        let seen = context.map(|it| (it.trace.to_string(), it.is_sampled));
        let seen = seen.as_ref().map(|(id, sampled)| (&**id, *sampled));
        assert_eq!(seen, expected, "{lines:?}");
    }

    #[test]
    fn a_valid_field_names_a_trace() {
        let rest = "00f067aa0ba902b7-01";
        let good = format!("00-{ID}-{rest}");
        check(&[&good], Some((ID, true)));
        check(&[&format!("01-{ID}-{rest}-more")], Some((ID, true)));
        for (flags, is_sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let field = format!("00-{ID}-00f067aa0ba902b7-{flags}");
            check(&[&field], Some((ID, is_sampled)));
        }
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
            format!("00-{ID}-00f067aa0ba902b7-+1"),
            format!("00-{ID}-00f067aa0ba902b7-1"),
        ] {
            check(&[&bad], None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(random: [u8; 24], is_sampled: bool) {
            let context = TraceContext { is_sampled, ..TraceContext::generate(random) };
            let field = context.field().unwrap();
            prop_assert_eq!(field.len(), 55);
            prop_assert_eq!(TraceContext::parse(field.to_str().unwrap()), Some(context));
        }

        #[test]
        fn only_the_four_parts_of_hexadecimal_digits_are_read(text in "[0-9a-gA-F+ -]{50,60}|00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}") {
            let is_hexadecimal = |part: &str| part.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it));
            let parts: Vec<&str> = text.split('-').collect();
            if let Some(context) = TraceContext::parse(&text) {
                let lengths: Vec<usize> = parts.iter().take(4).map(|it| it.len()).collect();
                prop_assert_eq!(lengths, [2, 32, 16, 2]);
                prop_assert!(parts.iter().take(4).all(|it| is_hexadecimal(it)));
                prop_assert_eq!(context.trace.to_string(), parts[1]);
                prop_assert_eq!(context.span.to_string(), parts[2]);
            }
        }
    }

    #[test]
    fn generated_ids_are_never_zero() {
        let context = TraceContext::generate([0; 24]);
        check(
            &[context.field().unwrap().to_str().unwrap()],
            Some((&context.trace.to_string(), true)),
        );
        assert_eq!(SpanId::generate([0; 8]).to_string(), "0000000000000001");
    }
}
