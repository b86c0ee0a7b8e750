"""What all nouns share: the account's objects, its clock, and the log of events about them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sandbox.stripe.errors import resource_missing
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown
from sandbox.stripe.store import Store

API_VERSION = "2026-10-28.endive"


class Account:
    """One Stripe account in test mode."""

    def __init__(self, store: Store, now: Callable[[], float], announce: Callable[[Object], None]) -> None:
        """Take the memory, the clock (seconds since the epoch) and whoever is told of each new event."""
        self.store = store
        self.base_url = ""  # known once the server listens; hosted pages live below it
        self._now = now
        self._announce = announce
        self._cause: Object = {"id": None, "idempotency_key": None}

    def time(self) -> int:
        """Tell the account's time, in whole seconds as Stripe writes it."""
        return int(self._now())

    @contextmanager
    def acting_for(self, request_id: str, idempotency_key: str | None) -> Iterator[None]:
        """Name the request that causes the events of this block; the block must not await."""
        before, self._cause = self._cause, {"id": request_id, "idempotency_key": idempotency_key}
        try:
            yield
        finally:
            self._cause = before

    def find(self, kind: Kind, object_id: str, *, param: str = "id") -> Object:
        """Look an object up. Raises resource_missing: 404 when the path named it (`param` "id"), else 400."""
        found = self.store.get(kind, object_id)
        if found is None:
            raise resource_missing(kind, object_id, param=param, status=404 if param == "id" else 400)
        return found

    def add(self, obj: Object, *, event: str | None = None) -> Object:
        """Keep a new object and, with `event`, announce it."""
        self.store.put(Kind(obj["object"]), obj["id"], obj)
        if event:
            self.publish(event, obj)
        return obj

    def change(self, obj: Object, changes: Object, *, event: str | None = None) -> Object | None:
        """Change an object's fields and, with `event`, announce it and return the event.

        An "….updated" event carries the fields' former values, and is left out when nothing that shows has changed.
        """
        before = {key: obj.get(key) for key in changes}
        obj.update(changes)
        self.store.put(Kind(obj["object"]), obj["id"], obj)
        previous = _difference(shown(before), obj)
        if event and (previous or not event.endswith(".updated")):
            return self.publish(event, obj, previous if event.endswith(".updated") else None)
        return None

    def publish(self, event_type: str, obj: Object, previous: Object | None = None) -> Object:
        """Write an event about the object as it is now, and have it delivered."""
        self._note_overdue(obj)
        data: Object = {"object": shown(obj)}
        if previous is not None:
            data["previous_attributes"] = previous
        event: Object = {
            "id": new_id(Kind.EVENT),
            "object": Kind.EVENT.value,
            "api_version": API_VERSION,
            "created": self.time(),
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,  # `announce` sets it where somebody listens
            "request": dict(self._cause),
            "type": event_type,
        }
        self.store.put(Kind.EVENT, event["id"], event)
        self._announce(event)
        return event

    def _note_overdue(self, obj: Object) -> None:
        """Note by which invoice a subscription is past due, and since when: its events tell that, and it does not."""
        if obj["object"] == Kind.SUBSCRIPTION and obj["status"] == "past_due" and obj["latest_invoice"]:
            told = obj.setdefault("_overdue", {})
            if obj["latest_invoice"] not in told:
                told[obj["latest_invoice"]] = self.time()
                self.store.put(Kind.SUBSCRIPTION, obj["id"], obj)


def _difference(before: Object, after: Object) -> Object:
    """Tell the former values of what changed, hash by hash, as Stripe's previous_attributes do."""
    changed: dict[str, Any] = {}
    for key, old in before.items():
        new = after.get(key)
        if old == new:
            continue
        changed[key] = _difference(old, new) if isinstance(old, dict) and isinstance(new, dict) and old else old
    return changed
