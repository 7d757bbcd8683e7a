//! Spans as OTLP has them in JSON.
//!
//! This differs from what JSON otherwise makes of protocol buffers: ids are hexadecimal. Numbers of 64 bits are
//! strings, and enumerations numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::span::{AttributeValue, Attributes, FinishedSpan};
use crate::protocol::trace_context::SAMPLED;

/// The flags of a span, above those of its trace: whether it is known that the parent is in another process, and whether it is.
const KNOWS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u8 = 2;

/// A request to a collector, with these spans of the service that `resource` describes.
pub(super) fn request(resource: &Attributes, spans: &[FinishedSpan]) -> Vec<u8> {
    let spans: Vec<Value> = spans.iter().map(span).collect();
    let scope = json!({ "name": "tidegate", "version": env!("CARGO_PKG_VERSION") });
    let request = json!({
        "resourceSpans": [{
            "resource": { "attributes": attributes(resource) },
            "scopeSpans": [{ "scope": scope, "spans": spans }],
        }],
    });
    request.to_string().into_bytes()
}

fn span(span: &FinishedSpan) -> Value {
    let remote = if span.is_parent_remote { IS_REMOTE } else { 0 };
    let mut value = json!({
        "traceId": span.ids.trace.to_string(),
        "spanId": span.ids.span.to_string(),
        "flags": u32::from(SAMPLED) | KNOWS_REMOTE | remote,
        "name": span.name,
        "kind": span.kind as u8,
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.ended.max(span.began)),
        "attributes": attributes(&span.attributes),
    });
    if let Some(parent) = span.ids.parent {
        value["parentSpanId"] = json!(parent.to_string());
    }
    if span.has_failed {
        value["status"] = json!({ "code": STATUS_ERROR });
    }
    value
}

fn attributes(attributes: &Attributes) -> Value {
    let values = attributes.iter().map(|(name, value)| {
        let value = match value {
            AttributeValue::Text(text) => json!({ "stringValue": text }),
            AttributeValue::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": name, "value": value })
    });
    values.collect()
}

fn nanos(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

/// Characters of a collector's message that are logged, at most.
const MAX_MESSAGE: usize = 200;

/// What a collector says about a request that it has accepted, but not as a whole, or with a warning.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartialSuccess {
    /// How many spans it has rejected.
    pub(super) rejected: u64,
    /// Why, or of what it warns.
    pub(super) message: String,
}

/// What the response to an accepted request says about the spans; `None` if all is well.
pub(super) fn partial_success(response: &[u8]) -> Option<PartialSuccess> {
    let response: Value = serde_json::from_slice(response).ok()?;
    let partial = response.get("partialSuccess")?;
    let count = partial.get("rejectedSpans");
    let count = count.and_then(|it| it.as_u64().or_else(|| it.as_str()?.parse().ok()));
    let rejected = count.unwrap_or(0);
    let message = partial.get("errorMessage").and_then(Value::as_str);
    let message = message.filter(|message| !message.is_empty());
    // The length of a log line is not for the collector to decide.
    let shown = message.unwrap_or("no reason given").chars();
    (rejected > 0 || message.is_some()).then(|| PartialSuccess {
        rejected,
        message: shown.take(MAX_MESSAGE).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::trace_context::{SpanId, TraceContext};
    use crate::traces::queue::tests::span as plain;
    use crate::traces::span::SpanKind;
    use proptest::prelude::*;
    use std::time::Duration;

    fn parsed(resource: &Attributes, spans: &[FinishedSpan]) -> Value {
        serde_json::from_slice(&request(resource, spans)).unwrap()
    }

    fn first(request: &Value) -> &Value {
        &request["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    }

    #[test]
    fn a_span_is_written_as_the_standard_has_it() {
        let mut it = plain("handshake");
        let context = TraceContext::generate([0xab; 24]);
        it.ids.trace = context.trace;
        it.ids.span = SpanId::generate([0xcd; 8]);
        it.began = UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        it.ended = it.began + Duration::from_millis(2);
        it.attributes.text("url.path", "/\u{e9}\"");
        it.attributes.number("tidegate.bytes", 1 << 60);
        let mut resource = Attributes::default();
        resource.text("service.name", "edge");
        let request = parsed(&resource, &[it.clone()]);
        let expected = json!({
            "traceId": "ab".repeat(16),
            "spanId": "cd".repeat(8),
            "flags": 0x101,
            "name": "handshake",
            "kind": 2,
            "startTimeUnixNano": "1700000000000000005",
            "endTimeUnixNano": "1700000000002000005",
            "attributes": [
                { "key": "url.path", "value": { "stringValue": "/\u{e9}\"" } },
                { "key": "tidegate.bytes", "value": { "intValue": "1152921504606846976" } },
            ],
        });
        assert_eq!(first(&request), &expected);
        let written = &request["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(
            written,
            &json!({ "key": "service.name", "value": { "stringValue": "edge" } })
        );

        it.ids.parent = Some(SpanId::generate([1; 8]));
        (it.is_parent_remote, it.has_failed, it.kind) = (true, true, SpanKind::Internal);
        // The clock was set back meanwhile.
        it.ended = UNIX_EPOCH;
        let request = parsed(&resource, &[it]);
        let span = first(&request);
        assert_eq!(span["parentSpanId"], "01".repeat(8));
        assert_eq!((&span["flags"], &span["kind"]), (&json!(0x301), &json!(1)));
        assert_eq!(span["status"], json!({ "code": 2 }));
        assert_eq!(span["endTimeUnixNano"], span["startTimeUnixNano"]);
    }

    #[test]
    fn a_collector_says_what_it_has_rejected() {
        for (response, expected) in [
            (
                r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#,
                Some((3, "too old")),
            ),
            (
                r#"{"partialSuccess":{"rejectedSpans":3}}"#,
                Some((3, "no reason given")),
            ),
            (
                r#"{"partialSuccess":{"errorMessage":"use gzip"}}"#,
                Some((0, "use gzip")),
            ),
            (
                r#"{"partialSuccess":{"rejectedSpans":"0","errorMessage":""}}"#,
                None,
            ),
            (r#"{"partialSuccess":{}}"#, None),
            ("{}", None),
            ("", None),
            ("[", None),
        ] {
            let seen = partial_success(response.as_bytes());
            let seen = seen.as_ref().map(|it| (it.rejected, &*it.message));
            assert_eq!(seen, expected, "{response}");
        }
    }

    proptest! {
        #[test]
        fn any_text_and_any_number_survive(text: String, number: u64, random: [u8; 24]) {
            let mut it = plain(&text);
            let context = TraceContext::generate(random);
            (it.ids.trace, it.ids.span) = (context.trace, context.span);
            it.attributes.text("text", &text);
            it.attributes.number("number", number);
            let request = parsed(&Attributes::default(), &[it.clone()]);
            let span = first(&request);
            prop_assert_eq!(span["name"].as_str(), Some(&*text));
            let id = span["traceId"].as_str().unwrap();
            prop_assert_eq!((id.len(), span["spanId"].as_str().map(str::len)), (32, Some(16)));
            let read = span["attributes"][0]["value"]["stringValue"].as_str().unwrap();
            prop_assert!(text.starts_with(read) && (read.len() == text.len() || read.len() > 1020));
            let read: i64 = span["attributes"][1]["value"]["intValue"].as_str().unwrap().parse().unwrap();
            prop_assert_eq!(read, i64::try_from(number).unwrap_or(i64::MAX));
        }
    }
}
