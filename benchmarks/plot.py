"""Plots as SVG, written by hand: two kinds of bars and a curve need no library, whose lock would be the largest of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.aims import Aim, number

WIDTH = 1_000
ROW = 26
LEFT = 580  # for what a bar is of
TOP = 48
LEAST, MOST = 0.25, 8.0  # shares of an aim that are told apart
GOOD, BAD, LINE, INK, PAPER = "#2f7d4f", "#c0562f", "#8a8f98", "#22262e", "#ffffff"
COLOURS = ("#2f6db3", "#c07a2f", "#6b4fa0")


def aims_plot(aims: Sequence[Aim]) -> str:
    """Draw how much of each aim was reached, on a scale on which twice as much is always as far."""
    span = WIDTH - LEFT - 90
    height = TOP + ROW * len(aims) + 20

    def x(share: float) -> float:
        inside = min(max(share, LEAST), MOST)
        return LEFT + span * math.log2(inside / LEAST) / math.log2(MOST / LEAST)

    parts = [_text(12, 22, "What was measured over what is aimed at (right of the line: reached)", size=15)]
    for mark in (0.5, 1, 2, 4):
        colour, width = (INK, 2) if mark == 1 else (LINE, 0.5)
        parts.append(_line(x(mark), TOP - 8, x(mark), height - 16, colour, width))
        parts.append(_text(x(mark), TOP - 12, f"{mark:g}", anchor="middle", size=11))
    for index, aim in enumerate(aims):
        y = TOP + ROW * index
        left, right = sorted((x(1), x(aim.share)))
        colour = GOOD if aim.share >= 1 else BAD
        parts.append(_text(LEFT - 10, y + 15, aim.what, anchor="end"))
        parts.append(_box(left, y + 3, max(right - left, 1.5), ROW - 8, colour))
        parts.append(_text(right + 6, y + 15, f"{number(aim.measured)}{aim.unit}"))
    return _page(height, parts)


def curves_plot(title: str, curves: Mapping[str, Sequence[tuple[float, float]]], aims: Mapping[float, float]) -> str:
    """Draw how many percent took at most so many milliseconds; aims are milliseconds by percent, crosses on the plot."""
    height, left, bottom = 420, 60, 380
    most = max([ms for curve in curves.values() for _, ms in curve] + list(aims.values())) * 1.05

    def at(percent: float, ms: float) -> tuple[float, float]:
        return left + (WIDTH - left - 30) * ms / most, bottom - (bottom - TOP) * percent / 100

    parts = [_text(12, 22, title, size=15)]
    for percent in (0, 25, 50, 75, 100):
        _, y = at(percent, 0)
        parts += [
            _line(left, y, WIDTH - 30, y, LINE, 0.5),
            _text(left - 6, y + 4, f"{percent} %", anchor="end", size=11),
        ]
    step = 10 ** math.floor(math.log10(most / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 10)
    for index in range(int(most / step) + 1):
        x, _ = at(0, index * step)
        parts.append(_text(x, bottom + 18, f"{index * step:g} ms", anchor="middle", size=11))
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(percent, ms) for percent, ms in curve))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        index = list(curves).index(name)
        y = bottom - 20 * (len(curves) - index)
        parts += [_box(WIDTH - 330, y - 9, 14, 10, colour), _text(WIDTH - 310, y, name)]
    for share, ms in aims.items():
        x, y = at(share, ms)
        parts += [_line(x - 6, y, x + 6, y, BAD, 2), _line(x, y - 6, x, y + 6, BAD, 2)]
        beside = min(x + 9, WIDTH - 140)  # the words are that wide, and stay on the page
        parts.append(_text(beside, y + 18, f"aim: {share:g} % within {ms:g} ms", size=11))
    return _page(height, parts)


def _page(height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    body = "\n".join((_box(0, 0, WIDTH, height, PAPER), *parts))
    return f'{head} font-family="sans-serif">\n{body}\n</svg>\n'


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float) -> str:
    where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {where} stroke="{colour}" stroke-width="{width}"/>'


def _box(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
