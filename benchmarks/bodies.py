"""The bodies that are sent: real events, recorded from the stand-in Stripe, told of many customers.

A recorded event is cut at its marks; rendering one puts the customer's number, the visit and the time into them.

- `@@` stands behind every id of the recorded customer: the customer's number makes it another one's.
- `##` makes ids new with each visit. It stands in front, in those that Stripe lets begin with the time (an event's, an invoice's), so that
  what is new is at one end of an index; behind, in those that Stripe draws at random (a session's).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

CUSTOMER_MARK = "@@"
VISIT_MARK = "##"
CREATED_MARK = '"$created$"'  # a number once rendered
PERIOD_END_MARK = '"$period_end$"'
MONTH_S = 30 * 86_400
GROUP = 5  # events of two customers: two renewals, each an invoice and its subscription, and one purchase
CUSTOMERS_A_GROUP = 2
LATER = (
    "zz"  # in an order of bytes behind whatever a recorded id begins with: the population is older than what is sent
)
VISIT_S = 3  # between two visits of one customer, by Stripe's clock; of events nearer than that the order would be looked up at Stripe

INVOICE = "invoice.paid"
SUBSCRIPTION = "customer.subscription.updated"
SESSION = "checkout.session.completed"
_ORDER = ((INVOICE, 0), (SUBSCRIPTION, 0), (INVOICE, 1), (SUBSCRIPTION, 1), (SESSION, 0))
_CUT = re.compile(
    "|".join(f"({re.escape(mark)})" for mark in (CUSTOMER_MARK, VISIT_MARK, CREATED_MARK, PERIOD_END_MARK))
)


@dataclass(frozen=True)
class Stream:
    """Events of a population of customers, from a position on; the same positions give the same ids, always.

    `created` is Stripe's time of the first, in seconds since the epoch; None: the moment of rendering.
    """

    templates: Mapping[str, str]
    population: int
    start: int
    created: int | None = None
    series: str = "v"  # keeps the ids of two streams apart
    stride: int = (
        1  # from one customer to the next; one that shares no divisor with the population scatters them over all of it
    )


def bodies(stream: Stream, count: int) -> Iterator[bytes]:
    """Render `count` events of a stream, as the bytes that Stripe would send."""
    cut = {name: _CUT.split(text) for name, text in stream.templates.items()}
    pieces = {name: [piece for piece in parts if piece is not None] for name, parts in cut.items()}
    created = int(time.time()) if stream.created is None else stream.created
    for position in range(stream.start, stream.start + count):
        name, _ = _ORDER[position % GROUP]
        customer, visit = place(stream, position)
        at = created + VISIT_S * _lap(stream, position)
        end = at + MONTH_S + position % 86_400
        marks = {
            CUSTOMER_MARK: customer,
            VISIT_MARK: visit,
            CREATED_MARK: str(at),
            PERIOD_END_MARK: str(end),
        }
        yield "".join([marks.get(piece, piece) for piece in pieces[name]]).encode()


def place(stream: Stream, position: int) -> tuple[str, str]:
    """Give what a position's customer and visit marks become."""
    group, within = divmod(position, GROUP)
    name, nth = _ORDER[within]
    if name == SESSION:  # the other one of the two when they are met again: purchases are everybody's
        nth = (nth + _lap(stream, position)) % CUSTOMERS_A_GROUP
    number = (group * CUSTOMERS_A_GROUP + nth) * stream.stride % stream.population
    return f"c{number}", f"{LATER}{stream.series}{group:09d}"


def _lap(stream: Stream, position: int) -> int:
    """Give how often the whole population was met before a position."""
    return position // GROUP * CUSTOMERS_A_GROUP // stream.population


def event_id(stream: Stream, position: int) -> str:
    """Give the id of the event at a position."""
    name, _ = _ORDER[position % GROUP]
    customer, visit = place(stream, position)
    return f"evt_{visit}{name.replace('.', '_')}{customer}"


def event_type(position: int) -> str:
    """Give the type of the event at a position."""
    return _ORDER[position % GROUP][0]
