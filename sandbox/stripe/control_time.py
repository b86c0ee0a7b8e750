"""Controls of time and of the account's settings."""

from __future__ import annotations

from pydantic import Field

from sandbox.stripe import events, schedule
from sandbox.stripe.control_route import Body, Control, Nothing, Surroundings
from sandbox.stripe.objects import Object
from sandbox.stripe.settings import Settings, change_settings, settings_of

ADVANCE_LIMIT_S = 400 * 24 * 3600  # in one go; events are forgotten after 30 days, so that steps should be far smaller


class _Advance(Body):
    advance_s: int = Field(gt=0, le=ADVANCE_LIMIT_S)


def _show_clock(around: Surroundings, _: str, __: Nothing) -> Object:
    return {"now": around.account.time(), "offset_s": around.clock.offset_s}


def _advance(around: Surroundings, _: str, body: _Advance) -> Object:
    done = schedule.catch_up(around.account, around.clock, around.clock() + body.advance_s)
    events.forget_old(around.account)
    return {**_show_clock(around, "", Nothing()), "done": done}


def _show_settings(around: Surroundings, _: str, __: Nothing) -> Object:
    return settings_of(around.account).model_dump(mode="json")


def _change_settings(around: Surroundings, _: str, body: Settings) -> Object:
    return change_settings(around.account, body)


CONTROLS = (
    Control("GET", "/_control/clock", "the account's time", Nothing, _show_clock),
    Control("POST", "/_control/clock", "move time forward, doing what falls due on the way", _Advance, _advance),
    Control("GET", "/_control/settings", "the account's settings", Nothing, _show_settings),
    Control("POST", "/_control/settings", "change the account's settings", Settings, _change_settings),
)
