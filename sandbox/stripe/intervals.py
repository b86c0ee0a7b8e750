"""Billing periods: calendar months and years, clamped to the month's last day as Stripe clamps them."""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

_DAYS = {"day": 1, "week": 7}
_MONTHS = {"month": 1, "year": 12}


def period_end(anchor_s: int, after_s: int, interval: str, count: int) -> int:
    """Tell the first end of a period after `after_s`; seconds since the epoch.

    Periods are counted from the anchor, so one that began on the 31st comes back to the 31st.
    """
    periods = 1
    while (end := _add(anchor_s, interval, count * periods)) <= after_s:
        periods += 1
    return end


def _add(start_s: int, interval: str, count: int) -> int:
    start = datetime.fromtimestamp(start_s, UTC)
    if interval in _DAYS:
        return int((start + timedelta(days=_DAYS[interval] * count)).timestamp())
    months = start.month - 1 + _MONTHS[interval] * count
    year, month = start.year + months // 12, months % 12 + 1
    day = min(start.day, calendar.monthrange(year, month)[1])
    return int(start.replace(year=year, month=month, day=day).timestamp())


def every(recurring: Mapping[str, Any] | None) -> str | None:
    """Say how often a price recurs: "month", "3 months"; None for one paid once."""
    if recurring is None:
        return None
    count, interval = recurring["interval_count"], recurring["interval"]
    return str(interval) if count == 1 else f"{count} {interval}s"
