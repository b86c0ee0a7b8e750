"""A catalog × what Stripe sells -> what does not agree, and what would be done about it; pure.

Rules of this file:
- What this deployment did not make is never changed: a difference there is a problem for a person.
- A price that is not active was taken out of sale by somebody, and stays so.
- What is charged is compared only where the catalog says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from billing_service.domain.catalog import Catalog, Plan, PlanMode, Price
from billing_service.domain.catalog_actions import (
    Action,
    ActionKind,
    Difference,
    create_product,
    make_price,
    place_of_plan,
    place_of_price,
    update_product,
)
from billing_service.domain.checkout_body import plan_group_of
from billing_service.domain.offers import OfferedPrice, OfferedProduct, Offers
from billing_service.domain.portal import (
    PortalPlan,
    configuration_body,
    configuration_metadata,
    content_hash,
    products_of,
)


@dataclass(frozen=True)
class Mismatch:
    """Something that Stripe has otherwise than the catalog."""

    place: str  # "plans.pro.prices.monthly"
    message: str  # reads on from the place, and says what to do
    mended: bool = False  # whether one of the actions ends it
    withdrawn: bool = False  # taken out of sale at Stripe, as one does with a plan that is not to be sold any more


@dataclass(frozen=True)
class Comparison:
    """What does not agree, and the actions that make it agree as far as they may."""

    mismatches: tuple[Mismatch, ...]
    actions: tuple[Action, ...]

    @property
    def unmended(self) -> tuple[Mismatch, ...]:
        """What no action ends."""
        return tuple(one for one in self.mismatches if not one.mended)

    def but_withdrawn(self) -> Comparison:
        """Give the same without what was taken out of sale."""
        return replace(self, mismatches=tuple(one for one in self.mismatches if not one.withdrawn))


@dataclass(frozen=True)
class _Account:
    """What the account has, and who asks."""

    offers: Offers
    deployment: str
    livemode: bool | None  # None where the API key does not tell

    def product_of(self, plan: Plan) -> OfferedProduct | None:
        """Give the product for a plan's prices: ours, or the one under which all prices stand that it has."""
        if (ours := self.offers.products.get(plan.plan_key)) is not None:
            return ours
        found = {p.product.product_id: p.product for p in map(self.price_of, plan.prices) if p is not None}
        return next(iter(found.values())) if len(found) == 1 else None

    def has_mode_of(self, found: OfferedPrice) -> bool:
        return self.livemode is None or found.livemode == self.livemode

    def price_of(self, price: Price) -> OfferedPrice | None:
        return self.offers.prices.get(price.lookup_key)


def compare(catalog: Catalog, offers: Offers, deployment: str, *, livemode: bool | None) -> Comparison:
    """Compare everything that a catalog sells with what Stripe has. `livemode` is that of the API key, if it tells."""
    account = _Account(offers, deployment, livemode)
    found = [_plan(plan, account) for plan in catalog.plans.values() if plan.prices]
    mismatches = tuple(one for part in found for one in part.mismatches)
    actions = [action for part in found for action in part.actions]
    actions += _portals(catalog, account, {action.place for action in actions})
    order = list(ActionKind)
    return Comparison(mismatches, tuple(sorted(actions, key=lambda action: order.index(action.kind))))


def _plan(plan: Plan, account: _Account) -> Comparison:
    product = account.product_of(plan)
    mismatches: list[Mismatch] = []
    actions: list[Action] = []
    if product is not None and not product.active:
        text = (
            "its product is not active at Stripe, so that nothing of it is sold; make it active there, or leave it so"
        )
        mismatches.append(Mismatch(place_of_plan(plan), text, withdrawn=True))
    for price in plan.prices:
        part = _price(plan, price, product, account)
        mismatches += part.mismatches
        actions += part.actions
    if product is None and actions:
        actions.insert(0, create_product(plan, account.deployment))
    if product is not None and product.plan_key == plan.plan_key and (update := update_product(plan, product)):
        mismatches.append(Mismatch(place_of_plan(plan), _differs(update), mended=True))
        actions.insert(0, update)
    return Comparison(tuple(mismatches), tuple(actions))


def _price(plan: Plan, price: Price, product: OfferedProduct | None, account: _Account) -> Comparison:
    """Compare one price, and give the one action that mends it, if there is one."""
    place = place_of_price(plan, price)
    found = account.price_of(price)
    sold = product is None or product.active
    messages = _faults(found, plan, price, account) if found is not None else [_missing(price)]
    if found is not None and not found.active:
        return Comparison((Mismatch(place, f"{_NOT_ACTIVE} ({found.price_id})", withdrawn=True),), ())
    if not messages:
        return Comparison((), ())
    charge = price.charge
    changeable = found is None or (found.ours and account.has_mode_of(found))
    can_make = charge is not None and sold and changeable
    mismatches = tuple(Mismatch(place, message, mended=can_make) for message in messages)
    if charge is None or not can_make:
        return Comparison(mismatches, ())
    product_id = product.product_id if product is not None else None
    action = make_price(plan, price, charge, product_id, account.deployment, old=found)
    return Comparison(mismatches, (action,))


_NOT_ACTIVE = "the price is not active at Stripe, and so not sold; make it active there, or leave it so"


def _missing(price: Price) -> str:
    text = f'Stripe has no price with the lookup key "{price.lookup_key}"'
    return text if price.charge else f"{text}; make one there, or add amount_minor, currency (and interval) to the file"


def _faults(found: OfferedPrice, plan: Plan, price: Price, account: _Account) -> list[str]:
    """Say what is wrong with a price at Stripe; nothing where it can be sold as the catalog says."""
    hint = (
        "" if found.ours else "; this program did not make that price and leaves it alone: change it there, or the file"
    )
    texts = list(_mode_faults(found, plan, account))
    if price.charge is not None and found.charge != price.charge and not texts:
        texts.append(f"Stripe charges {found.charge or 'by tiers or the like'}, and the file says {price.charge}")
    return [f"{text} ({found.price_id}){hint}" for text in texts]


def _mode_faults(found: OfferedPrice, plan: Plan, account: _Account) -> Iterator[str]:
    if not account.has_mode_of(found):
        yield f"the price is of {'live' if found.livemode else 'test'} mode, and the API key is not"
    if found.recurring != (plan.mode is PlanMode.SUBSCRIPTION):
        yield f'the price is {"recurring" if found.recurring else "paid once"} at Stripe, and the plan is of mode "{plan.mode}"'
    if found.metered:
        yield "the price is charged by usage, which the service does not sell"


def _differs(action: Action) -> str:
    return "; ".join(
        f"{one.field} is {one.before!r} at Stripe, and {one.after!r} in the file" for one in action.differences
    )


def _portals(catalog: Catalog, account: _Account, moving: set[str]) -> Iterator[Action]:
    """Give the portal configurations that are missing: one for each plan group, and one in which no plan can be changed.

    The service makes a missing one by itself when it is first asked for; made here, nobody waits for it.
    """
    groups: dict[str, list[Plan]] = {}
    for plan in catalog.plans.values():
        if plan.mode is PlanMode.SUBSCRIPTION:
            groups.setdefault(plan_group_of(plan), []).append(plan)
    if not groups:
        return
    for name, plans in [*groups.items(), ("no_plan", [])]:
        sold = [one for plan in plans if (one := _portal_plan(plan, account)) is not None]
        content = content_hash(sold, account.deployment)
        waits = any(place_of_price(plan, price) in moving for plan in plans for price in plan.prices)
        if waits or ((sold or not plans) and content not in account.offers.portals):
            yield _portal(name, plans, None if waits else (content, sold), account)


def _portal_plan(plan: Plan, account: _Account) -> PortalPlan | None:
    """Give the plan at the prices that can be bought now; by the same rule as the service's own."""
    prices = [found for price in plan.prices if (found := account.price_of(price)) and found.active and found.recurring]
    return PortalPlan(tuple(found.price_id for found in prices), plan.quantity_allowed) if prices else None


def _portal(
    name: str, plans: Sequence[Plan], made_of: tuple[str, list[PortalPlan]] | None, account: _Account
) -> Action:
    difference = Difference("plans", None, ", ".join(plan.plan_key for plan in plans) or "none")
    body = None
    if made_of is not None:
        content, sold = made_of
        products = products_of(sold, account.offers.product_of_price())
        body = configuration_body(products, configuration_metadata(content, account.deployment))
    return Action(ActionKind.CREATE_PORTAL, f"portal.{name}", (difference,), body)
