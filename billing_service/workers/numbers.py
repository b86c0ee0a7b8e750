"""The pages of several workers as one page for Prometheus: every series with the worker that it is of.

Not summed: a worker that was started again begins at 0, which a sum would show as a fall of everything, and `rate` as a rise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

LABEL: Final = "worker"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def merged(pages: Mapping[str, bytes]) -> bytes:
    """Put pages together, by the name of their worker; each metric's description stands once, before the series of all."""
    heads: dict[str, list[str]] = {}
    series: dict[str, list[str]] = {}
    for worker, page in pages.items():
        for metric, head, samples in _metrics(page.decode()):
            heads.setdefault(metric, head)
            series.setdefault(metric, []).extend(_labelled(sample, worker) for sample in samples)
    return "".join(f"{line}\n" for metric in heads for line in (*heads[metric], *series[metric])).encode()


def _metrics(page: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Give each metric's name, description and series; a metric begins with its HELP."""
    name, head, samples = "", list[str](), list[str]()
    for line in page.splitlines():
        if line.startswith("# HELP "):
            if head:
                yield name, head, samples
            name, head, samples = line.split(" ", 3)[2], [line], []
        elif line.startswith("#"):
            head.append(line)
        else:
            samples.append(line)
    if head:
        yield name, head, samples


def _labelled(sample: str, worker: str) -> str:
    name = _NAME.match(sample)
    if name is None:
        return sample
    rest = sample[name.end() :]
    label = f'{LABEL}="{worker}"'
    return f"{name[0]}{{{label},{rest[1:]}" if rest.startswith("{") else f"{name[0]}{{{label}}}{rest}"
