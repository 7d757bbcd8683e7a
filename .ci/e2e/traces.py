"""Spans as OpenTelemetry's own protocol buffers read them: the requests in the files named, as one list in JSON.

OTLP has ids in hexadecimal where the JSON of protocol buffers has base64; everything else has to be as it is."""

import base64
import json
import sys

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def with_base64(value):
    if isinstance(value, list):
        return [with_base64(each) for each in value]
    if not isinstance(value, dict):
        return value
    ids = {"traceId", "spanId", "parentSpanId"}
    return {
        name: base64.b64encode(bytes.fromhex(each)).decode() if name in ids else with_base64(each)
        for name, each in value.items()
    }


def attributes(of):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


spans = []
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        written = json.load(file)
    # A name that the protocol does not have is an error.
    request = json_format.ParseDict(with_base64(written), ExportTraceServiceRequest())
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                spans.append({
                    "resource": attributes(resource.resource),
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "flags": span.flags,
                    "name": span.name,
                    "kind": type(span).SpanKind.Name(span.kind),
                    "status": type(span.status).StatusCode.Name(span.status.code),
                    "began": span.start_time_unix_nano / 1e6,
                    "ended": span.end_time_unix_nano / 1e6,
                    "attributes": attributes(span),
                })
print(json.dumps(spans))
