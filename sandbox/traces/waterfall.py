"""A trace as a page: a row for each span, below the one that it is a part of, with a bar for when it ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from sandbox.traces.store import Record

_COLOURS: Final = ("#3b6fb6", "#b65f3b", "#3b8f5e", "#8450a8", "#a08020")
_STYLE: Final = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px; color: #1b1f24; background: #fff }
table { border-collapse: collapse; width: 100%; table-layout: fixed }
td, th { padding: 3px 8px; text-align: left; vertical-align: top; border-bottom: 1px solid #e6e8eb }
th { font-weight: 600; color: #57606a; border-bottom: 2px solid #d0d7de }
.name { width: 34% } .time { width: 84px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.bar { position: relative; height: 16px; background: #f3f4f6; border-radius: 3px }
.bar i { position: absolute; top: 2px; bottom: 2px; min-width: 2px; border-radius: 2px }
.what { color: #57606a; font-size: 12px; overflow-wrap: anywhere }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 6px }
.failed { color: #b3261e; font-weight: 600 }
a { color: #0b5cad } tr:target td { background: #fff8db }
"""


def index(traces: Sequence[Sequence[Record]]) -> str:
    """Give the page of all traces."""
    rows = "".join(_line(spans) for spans in traces if spans)
    head = "<tr><th class='name'>begins with</th><th>programs</th><th class='time'>spans</th><th class='time'>took</th></tr>"
    empty = "" if rows else "<p>Nothing was traced yet.</p>"
    return _page("Traces", f"<table>{head}{rows}</table>{empty}")


def waterfall(spans: Sequence[Record]) -> str:
    """Give the page of one trace; with none of its spans a page that says so."""
    if not spans:
        return _page("No such trace", "<p>It is not here, or not any more.</p>")
    begin, end = min(one.start_ns for one in spans), max(one.end_ns for one in spans)
    colours = _colours(spans)
    legend = "".join(f"<span style='margin-right:18px'>{_dot(c)}{escape(name)}</span>" for name, c in colours.items())
    rows = "".join(_row(one, depth, begin, max(end - begin, 1), colours) for one, depth in _ordered(spans))
    head = "<tr><th class='name'>span</th><th class='time'>begins, ms</th><th class='time'>takes, ms</th><th>when</th></tr>"
    title = f"{spans[0].name} · {len(spans)} spans · {_ms(end - begin)} ms"
    return _page(title, f"<p>{legend}</p><table>{head}{rows}</table><p><a href='/'>all traces</a></p>")


def _line(spans: Sequence[Record]) -> str:
    took = _ms(max(one.end_ns for one in spans) - spans[0].start_ns)
    programs = ", ".join(dict.fromkeys(one.program for one in spans))
    link = f"<a href='/traces/{spans[0].trace_id}'>{escape(spans[0].name)}</a>"
    return f"<tr><td>{link}</td><td>{escape(programs)}</td><td class='time'>{len(spans)}</td><td class='time'>{took} ms</td></tr>"


def _ordered(spans: Sequence[Record]) -> Iterator[tuple[Record, int]]:
    """Give each span behind the one that it is a part of, with its depth; one whose parent is not here begins a tree."""
    ids = {one.span_id for one in spans}
    below: dict[str, list[Record]] = {}
    for one in spans:
        below.setdefault(one.parent_id if one.parent_id in ids else "", []).append(one)
    waiting = [(one, 0) for one in reversed(below.get("", []))]
    while waiting:
        one, depth = waiting.pop()
        yield one, depth
        waiting += [(child, depth + 1) for child in reversed(below.get(one.span_id, []))]


def _row(one: Record, depth: int, begin: int, whole: int, colours: Mapping[str, str]) -> str:
    left, width = 100 * (one.start_ns - begin) / whole, 100 * (one.end_ns - one.start_ns) / whole
    colour = colours[one.program]
    name = f"<span class='failed'>{escape(one.name)}</span>" if one.failed else escape(one.name)
    said = " · ".join(f"{escape(key)}={escape(value)}" for key, value in one.attributes.items())
    links = "".join(f" → <a href='/traces/{trace}#{span}'>{trace[:8]}/{span[:8]}</a>" for trace, span in one.links)
    return (
        f"<tr id='{one.span_id}'><td style='padding-left:{8 + 18 * depth}px'>{_dot(colour)}{name}"
        f"<div class='what'>{said}{links}</div></td>"
        f"<td class='time'>{_ms(one.start_ns - begin)}</td><td class='time'>{_ms(one.end_ns - one.start_ns)}</td>"
        f"<td><div class='bar'><i style='left:{left:.3f}%;width:{width:.3f}%;background:{colour}'></i></div></td></tr>"
    )


def _colours(spans: Sequence[Record]) -> Mapping[str, str]:
    programs = dict.fromkeys(one.program for one in spans)
    return {program: _COLOURS[at % len(_COLOURS)] for at, program in enumerate(programs)}


def _dot(colour: str) -> str:
    return f"<span class='dot' style='background:{colour}'></span>"


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1_000_000:.2f}"


def _page(title: str, body: str) -> str:
    return f"<!doctype html><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style><h2>{escape(title)}</h2>{body}"
