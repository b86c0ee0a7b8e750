"""The traces that came, the newest ones only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

MOST_TRACES = 2_000
MOST_SPANS = 2_000  # of one trace


@dataclass(frozen=True)
class Record:
    """One span as it was sent."""

    trace_id: str
    span_id: str
    parent_id: str  # empty for the first of a trace
    program: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: Mapping[str, str]
    links: Sequence[tuple[str, str]]  # trace and span


class Traces:
    """Spans by trace."""

    def __init__(self) -> None:
        """Begin with none."""
        self._spans: OrderedDict[str, dict[str, Record]] = OrderedDict()

    def take(self, body: bytes) -> None:
        """Take what an exporter sent.

        Raises:
            google.protobuf.message.DecodeError: it is no ExportTraceServiceRequest.
        """
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            program = _values(resource.resource.attributes).get("service.name", "?")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._keep(_record(program, span))

    def newest(self) -> list[Sequence[Record]]:
        """Give the traces, the last one that anything came of first."""
        return [self.of(trace_id) for trace_id in reversed(self._spans)]

    def of(self, trace_id: str) -> Sequence[Record]:
        """Give the spans of a trace in the order in which they began."""
        return sorted(self._spans.get(trace_id, {}).values(), key=lambda one: (one.start_ns, one.end_ns))

    def plain(self) -> list[list[dict[str, Any]]]:
        """Give all of it as JSON has it."""
        return [[asdict(span) for span in spans] for spans in self.newest()]

    def _keep(self, record: Record) -> None:
        spans = self._spans.setdefault(record.trace_id, {})
        self._spans.move_to_end(record.trace_id)
        if len(spans) < MOST_SPANS:
            spans[record.span_id] = record
        while len(self._spans) > MOST_TRACES:
            self._spans.popitem(last=False)


def _record(program: str, span: trace_pb2.Span) -> Record:
    return Record(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        program=program,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        attributes=_values(span.attributes),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
    )


def _values(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {one.key: _text(one.value) for one in attributes}


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    return "" if kind is None else str(getattr(value, kind))
