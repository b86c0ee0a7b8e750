"""Rows that webhooks write again and again stay on their pages, so that no index has to be told."""

from __future__ import annotations

import psycopg

from billing_service.domain.merge import ObjectState, Payload
from billing_service.domain.views import CustomerStatus, CustomerView, ObjectKind
from billing_service.storage import objects
from billing_service.storage.database import Connection, Database

COUNT = 400
_IN_PLACE = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'stripe_objects'"
_PAGES = "SELECT object_id, (ctid::text::point)[0] FROM stripe_objects"


def state(number: int, created: int) -> ObjectState:
    view = CustomerView(CustomerStatus.LIVE)
    payload = Payload(created, f"evt_{created}", created, view)
    return ObjectState(f"cus_{number:04d}", ObjectKind.CUSTOMER, None, payload, None, {})


async def test_an_object_that_is_written_again_stays_on_its_page(database_url: str) -> None:
    """A row that moves needs a new entry in each index of its table: in a large one, each on a page that nobody else needs."""
    database = Database(database_url)

    async def save(connection: Connection, *states: ObjectState) -> None:
        await objects.save(connection, states)

    await database.run(lambda connection: save(connection, *(state(number, 1) for number in range(COUNT))))
    with psycopg.connect(database_url, autocommit=True) as other:
        before: dict[str, float] = dict(other.execute(_PAGES).fetchall())
        for number in range(COUNT):
            again = state(number, 2)
            await database.run(lambda connection, again=again: save(connection, again))  # type: ignore[misc]
        after: dict[str, float] = dict(other.execute(_PAGES).fetchall())
    await database.close()  # its numbers of the statistics are handed over
    with psycopg.connect(database_url, autocommit=True) as other:
        updated, in_place = other.execute(_IN_PLACE).fetchone() or (0, 0)
    assert updated == COUNT
    assert in_place > COUNT * 0.95
    assert len(set(before.values())) > 2
    moved = [object_id for object_id, page in after.items() if page != before[object_id]]
    assert len(moved) < COUNT // 50
