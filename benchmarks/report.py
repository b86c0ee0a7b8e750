"""`python -m benchmarks.report`: the tables of docs/benchmarks.md and its plots, from the files in benchmarks/results.

Whichever files are there are told of. Between `<!-- results: NAME -->` and `<!-- end -->` the page is written by this program, and
stays as it is where there is no file of that name.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.aims import Aim, aims, number
from benchmarks.plot import aims_plot, curves_plot

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
AIMS_PLOT, WATCH_PLOT = "benchmarks-aims.svg", "benchmarks-watch.svg"  # beside the page
_PLACE = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    """Write page and plots; say what there was to tell of."""
    files = load(RESULTS)
    if not files:
        sys.stderr.write(f"There are no results in {RESULTS.relative_to(ROOT)}; `make bench` makes them.\n")
        return 1
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), files), encoding="utf-8")
    for name, plot in plots(files).items():
        (PAGE.parent / name).write_text(plot, encoding="utf-8")
    sys.stdout.write(f"Told of {', '.join(sorted(files))}.\n")
    return 0


def load(folder: Path) -> dict[str, Any]:
    """Read every file of results, by its name without the ending."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def written(page: str, files: Mapping[str, Any]) -> str:
    """Give the page with what the files say in its places."""

    def fill(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        if name == "aims":
            return (
                f"{begin}{_aims_table(aims(files))}\n\n![What was measured over what is aimed at]({AIMS_PLOT})\n{end}"
            )
        if name not in files:
            return place.group()
        return f"{begin}{_TABLES.get(name, _plain)(files[name])}\n{end}"

    return _PLACE.sub(fill, page)


def plots(files: Mapping[str, Any]) -> dict[str, str]:
    """Give the plots by their files' names."""
    found = {AIMS_PLOT: aims_plot(aims(files))}
    if "watch" in files:
        watch = files["watch"]
        curves = {
            "alone": watch["alone"]["from_commit_curve"],
            f"with {watch['streams']['open']:,} streams open": watch["among_streams"]["from_commit_curve"],
        }
        title = f"From the commit of a change to a client's cache, {watch['alone']['rate_per_s']} changes a second"
        found[WATCH_PLOT] = curves_plot(title, curves, {50: 20, 99: 100})
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aims_table(found: Sequence[Aim]) -> str:
    rows = [
        [aim.what, f"{number(aim.measured)}{aim.unit}", aim.wanted, "yes" if aim.share >= 1 else "**no**"]
        for aim in found
    ]
    return _table(["what", "measured", "aim", "reached"], rows)


def _reads_table(found: Any) -> str:
    head = [
        "customers",
        "empty handler",
        "GetEntitlements",
        "ratio (least to most)",
        "alone, p50",
        "ratio",
        "index pages",
    ]
    rows = [
        [
            f"{one['customers']:,}",
            f"{one['empty_per_s']:,.0f}/s",
            f"{one['ours_per_s']:,.0f}/s",
            f"**{one['ratio']:.2f}** ({one['ratio_least']:.2f} to {one['ratio_most']:.2f})",
            f"{one['empty_p50_ms']:.2f} and {one['ours_p50_ms']:.2f} ms",
            f"**{one['p50_ratio']:.2f}**",
            f"{one['looked_up']['pages']} in {one['looked_up']['searches']} search",
        ]
        for one in found["sizes"]
    ]
    busy = max(one["generator_busy"] for one in found["sizes"])
    return f"{_table(head, rows)}\n\nThe generator used {busy:.0%} of a core at most. {_day(found)}"


def _watch_table(found: Any) -> str:
    head = ["", "changes a second", "from commit, p50", "p99", "from sending, p50", "p99", "service's processor time"]
    rows = [
        [
            what,
            f"{one['rate_per_s']}",
            f"**{one['from_commit']['p50_ms']} ms**",
            f"**{one['from_commit']['p99_ms']} ms**",
            f"{one['from_sending']['p50_ms']} ms",
            f"{one['from_sending']['p99_ms']} ms",
            f"{one['service_cpu_ms_each']:.2f} ms a change",
        ]
        for what, one in (
            ("one cache", found["alone"]),
            (f"and {found['streams']['open']:,} streams", found["among_streams"]),
        )
    ]
    checks = found["cached_checks_per_s"]
    return (
        f"{_table(head, rows)}\n\n![From commit to cache]({WATCH_PLOT})\n\n{found['streams']['kib_each']} KiB of the service's memory a stream. Cached checks on one core: "
        f"{checks['check']:,} a second, {checks['check_and_age']:,} with a look at the age of each. {_day(found)}"
    )


def _growth_table(found: Any) -> str:
    defaults = found.get("with_postgres_defaults")
    if defaults is None:
        return _growth_of(found)
    settings = ", ".join(f"`{name} = {value}`" for name, value in found["settings"].items())
    return (
        f"As [operations](operations.md#scale) advises ({settings}):\n\n{_growth_of(found)}\n\n"
        f"With PostgreSQL's own settings:\n\n{_growth_of({**defaults, 'machine': found['machine'], 'measured': found['measured']})}"
    )


def _growth_of(found: Any) -> str:
    ratio = f"**{found['cpu_ratio']:.2f}** ({found['cpu_ratio_least']:.2f} to {found['cpu_ratio_most']:.2f})"
    bare = found.get("pgbench_ratio")
    peer = "" if bare is None else f" PostgreSQL's, for pgbench's bare inserts and upserts of the same: {bare:.2f}."
    return (
        f"{_plain(found['sizes'])}\n\nProcessor time of the largest beside the smallest: {ratio} in {found['rounds']} rounds; "
        f"throughput: {found['rate_ratio']:.2f}.{peer} {_day(found)}"
    )


def _plain(found: Any) -> str:
    """Tell of a file that has no table of its own: a row for each entry, a column for each number."""
    entries = found if isinstance(found, list) else found.get("contenders", found.get("sizes", [found]))
    flat = [dict(_flat(entry)) for entry in entries]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    rows = [[row.get(name, "") for name in columns] for row in flat]
    return _table([name.replace("_", " ") for name in columns], rows)


def _flat(entry: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name} ")
        elif isinstance(value, int | float):
            found.append((before + name, number(value)))
        elif isinstance(value, str):
            found.append((before + name, value))
    return found


def _day(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    return f"Measured {found['measured']} on {machine['processors']} processors, Python {machine['python']}."


_TABLES: Mapping[str, Callable[[Any], str]] = {
    "reads": _reads_table,
    "watch": _watch_table,
    "growth": _growth_table,
}

if __name__ == "__main__":
    sys.exit(main())
