"""`billing`, the operators' command line, against the running service: each command, its JSON, and each way to be refused."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests import stripe_events
from tests.acceptance.operator import Operator
from tests.acceptance.world import World, eventually

NOWHERE = "127.0.0.1:9"


@pytest.fixture
def operator(world: World, tmp_path: Path) -> Operator:
    return Operator(world.addresses, tmp_path)


@pytest.fixture
async def subscriber(world: World, customer_id: str) -> str:
    """A customer who has bought Pro, and of whom every webhook was delivered."""
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    await world.until_delivered()
    return customer_id


# --- Customers -----------------------------------------------------------------------------------------------------------


async def test_a_customer_is_shown_with_the_whole_why(operator: Operator, subscriber: str) -> None:
    shown = operator.done("customer", "show", subscriber, "--json").row
    assert shown["entitlements"]["plan_keys"] == ["pro"]
    (explanation,) = shown["explanations"]
    assert explanation["ruling"] == "RULING_PERIOD"
    facts = explanation["subscription_item"]
    assert (facts["status"], facts["lookup_key"], facts["latest_invoice_status"]) == ("active", "pro_monthly", "paid")
    assert [one["current"] for one in shown["stripe_bindings"]] == [True]

    screen = operator.done("customer", "show", subscriber).out
    for told in (
        subscriber,
        facts["stripe_subscription_id"],
        "pro_monthly",
        "access until the item's period ends",
        "Z (in ",
    ):
        assert told in screen
    assert "\x1b" not in screen  # it is no terminal
    assert "@" not in screen  # ids, and no personal data beyond them


async def test_somebody_of_whom_nothing_is_known_has_what_everybody_has(operator: Operator, customer_id: str) -> None:
    screen = operator.done("customer", "show", customer_id).out
    assert "never heard of" in screen
    assert "free" in screen
    assert operator.done("customer", "history", customer_id, "--json").rows == []


async def test_the_history_says_what_changed_and_by_what(operator: Operator, subscriber: str) -> None:
    rows = operator.done("customer", "history", subscriber, "--json").rows
    assert rows[0]["after"]["plan_keys"] == ["pro"]
    assert rows[-1]["before"]["plan_keys"] == ["free"]
    assert [int(row["revision"]) for row in rows] == list(range(len(rows), 0, -1))
    screen = operator.done("customer", "history", subscriber).out
    assert "projects: 3 → 50" in screen
    one = operator.done("customer", "history", subscriber, "--limit", "1", "--json")
    assert one.rows == rows[:1]


async def test_a_stripe_customer_is_bound_by_hand_and_another_ones_only_with_replace(
    world: World, operator: Operator, customer_id: str
) -> None:
    """What was bought under it counts at once; who stands in the way is named; nothing is done unasked."""
    async with world.stripe() as stripe:
        found = (await stripe.v1.customers.create_async({"name": "bought elsewhere"})).id
    link = ("customer", "link", customer_id, found, "--because", "ticket 7")
    refused = operator.call(*link)
    assert (refused.code, "--yes" in refused.said) == (6, True)
    assert operator.done("customer", "show", customer_id, "--json").row["stripe_bindings"] == []

    bound = operator.done(*link, "--yes", "--json")
    assert bound.row["stripe_binding"]["stripe_customer_id"] == found
    other = f"{customer_id}-other"
    contradicted = operator.call("customer", "link", other, found, "--because", "ticket 8", "--yes")
    assert contradicted.code == 1
    assert f"billing customer show {customer_id}" in contradicted.said
    assert "--replace" in contradicted.said
    code, seen = await operator.at_terminal(
        "customer", "link", other, found, "--replace", "--because", "ticket 8", typed="yes"
    )
    assert (code, customer_id in seen) == (0, True)
    unknown = operator.call("customer", "link", other, "cus_nobody", "--because", "ticket 9", "--yes")
    assert unknown.code == 3


async def test_personal_data_is_erased_once_somebody_says_yes(operator: Operator, subscriber: str) -> None:
    erase = ("customer", "erase", subscriber, "--because", "ticket 10")
    code, seen = await operator.at_terminal(*erase, typed="no")
    assert (code, "Nothing was done" in seen) == (6, True)
    assert operator.done(*erase, "--yes", "--json").row["customer_id"] == subscriber

    async def state() -> str:
        return str(operator.done(*erase, "--yes", "--json").row["state"])

    await eventually(state, lambda found: found == "STATE_DONE")
    shown = operator.done("customer", "show", subscriber, "--json").row
    assert shown["erase_time"]
    assert shown["entitlements"]["plan_keys"] == ["pro"]
    assert operator.call("customer", "erase", f"{subscriber}-misspelt", "--because", "x", "--yes").code == 3


# --- Events and the quarantine -------------------------------------------------------------------------------------------


async def test_the_events_of_a_customer_are_listed_and_shown(operator: Operator, subscriber: str) -> None:
    rows = operator.done("events", "list", "--customer", subscriber, "--json").rows
    assert {"checkout.session.completed", "customer.subscription.created", "invoice.paid"} <= {
        row["type"] for row in rows
    }
    applied = operator.done("events", "list", "--customer", subscriber, "--outcome", "applied", "--json")
    assert applied.rows == [row for row in rows if row["outcome"] == "OUTCOME_APPLIED"]
    paid = operator.done(
        "events", "list", "--customer", subscriber, "--type", "invoice.paid", "--since", "1h", "--json"
    )
    event_id = paid.row["event_id"]
    shown = operator.done("events", "show", event_id)
    assert "invoice.paid" in shown.out
    about = operator.done("events", "show", event_id, "--json").row
    assert about["body"] == ""  # it holds personal data, and nobody asked for it
    assert operator.done("events", "list", "--object", about["event"]["object_id"], "--json").rows
    body = operator.done("events", "show", event_id, "--body")
    assert json.loads(body.out)["id"] == event_id
    assert event_id in operator.done("events", "list", "--customer", subscriber).out


async def test_what_is_in_quarantine_is_listed_shown_and_replayed(
    world: World, operator: Operator, customer_id: str
) -> None:
    """0 only where nothing failed again."""
    number = customer_id.rpartition("-")[2]
    good, bad = f"evt_good_{number}", f"evt_bad_{number}"
    body = stripe_events.purchase(customer_id, int(time.time()))[0].replace(b'": "default"', b'": "sandbox"')
    with psycopg.connect(world.addresses["database"]) as connection:
        for key, payload, reason in ((good, body, "unwritable"), (bad, b"{\x1b}", "malformed")):
            connection.execute(
                "INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES (%s, %s, %s, 'what is wrong')",
                (key, payload, reason),
            )
    listed = operator.done("quarantine", "list", "--reason", "malformed")
    assert bad in listed.out
    assert good not in listed.out
    assert {good, bad} <= {row["event_key"] for row in operator.done("quarantine", "list", "--json").rows}
    assert "what is wrong" in operator.done("events", "show", bad).out
    _, seen = await operator.at_terminal("events", "show", bad, "--body")
    assert "{\\x1b}" in seen

    replayed = operator.done("quarantine", "replay", "--reason", "unwritable", "--json").row
    assert (replayed["replayed"], replayed["failed"]) == (1, 0)
    again = operator.call("events", "replay", bad)
    assert (again.code, "1 failed" in again.out) == (1, True)
    assert "1 quarantined" in operator.done("audit", "list", "--operation", "replay_events", "--limit", "1").out
    assert operator.call("events", "replay", good).code == 3
    assert operator.call("quarantine", "replay", "--reason", "gossip").code == 2


async def test_an_event_is_discarded_with_why_and_listed_where_that_is_asked(
    world: World, operator: Operator, customer_id: str
) -> None:
    body = f"{{not JSON {customer_id}".encode()
    key = f"sha256:{hashlib.sha256(body).hexdigest()}"
    with psycopg.connect(world.addresses["database"]) as connection:
        connection.execute(
            "INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES (%s, %s, 'malformed', 'x')",
            (key, body),
        )
    discard = ("quarantine", "discard", key)
    assert operator.call(*discard).code == 2, "not without why"
    made = operator.done(*discard, "--because", "ticket 14", "--json").row
    assert (made["event_key"], bool(made["discard_time"])) == (key, True)
    assert key in operator.done(*discard, "--because", "ticket 15").out
    everything = ("--json", "--limit", "1000")
    assert key not in {row["event_key"] for row in operator.done("quarantine", "list", *everything).rows}
    listed = operator.done("quarantine", "list", "--discarded", "--limit", "1000")
    assert ("discarded" in listed.out, "and what was discarded" in listed.said) == (True, True)
    rows = operator.done("quarantine", "list", "--discarded", *everything).rows
    assert [row["discard_time"] for row in rows if row["event_key"] == key] == [made["discard_time"]]
    shown = operator.done("events", "show", key).out
    assert ("discarded: malformed" in shown, "in quarantine" in shown) == (True, False)
    assert operator.call("events", "replay", key).code == 1
    assert "discarded: malformed" in operator.done("events", "show", key).out
    kept = operator.done("audit", "list", "--operation", "discard_quarantined_event").out
    assert ("sha256:" in kept, "ticket 14" in kept) == (True, True)
    assert operator.call("quarantine", "discard", "evt_nobody", "--because", "x").code == 3


# --- Grants --------------------------------------------------------------------------------------------------------------


async def test_a_grant_is_given_counts_and_is_revoked(world: World, operator: Operator, customer_id: str) -> None:
    give = (
        "grants",
        "give",
        customer_id,
        "--plan",
        "pro",
        "--until",
        "30d",
        "--because",
        "ticket 1",
        "--request-id",
        customer_id,
    )
    made = operator.done(*give, "--json").row
    assert (made["grant"]["actor"], made["grant"]["reason"]) == ("ada", "ticket 1")
    assert await world.plans_of(customer_id) == ["pro"]
    grant_id = made["grant"]["grant_id"]
    assert grant_id in operator.done("grants", "list", "--customer", customer_id).out
    assert "ticket 1" in operator.done("customer", "show", customer_id).out

    revoke = ("grants", "revoke", grant_id, "--because", "ticket 2")
    assert operator.call(*revoke).code == 6
    assert await world.plans_of(customer_id) == ["pro"]
    operator.done(*revoke, "--yes")
    assert await world.plans_of(customer_id) == ["free"]
    assert operator.done("grants", "list", "--customer", customer_id, "--json").rows == []
    every = operator.done("grants", "list", "--customer", customer_id, "--all", "--json")
    assert every.row["revoke_reason"] == "ticket 2"
    assert operator.call("grants", "revoke", f"grant_{'0' * 32}", "--because", "x", "--yes").code == 3


async def test_a_request_id_is_carried_out_once(operator: Operator, customer_id: str) -> None:
    """The same command again, as after an answer that was lost, gives nothing a second time; another one is refused."""
    give = ("grants", "give", customer_id, "--feature", "projects=100", "--request-id", customer_id, "--json")
    first, second = [operator.done(*give, "--because", "ticket 3").row for _ in range(2)]
    assert first["grant"]["grant_id"] == second["grant"]["grant_id"]
    other = operator.call(*give, "--because", "ticket 4")
    assert (other.code, "request" in other.said) == (1, True)


async def test_an_override_may_take_away_and_asks_first(world: World, operator: Operator, subscriber: str) -> None:
    override = ("grants", "override", subscriber, "--feature", "projects=1", "--because", "ticket 5")

    async def projects() -> int:
        answer = await world.entitlements(subscriber)
        (found,) = (one for one in answer.entitlements if one.feature_key == "projects")
        return found.value.integer_value

    code, seen = await operator.at_terminal(*override, typed="nonsense")
    assert (code, "Nothing was done" in seen, await projects()) == (6, True, 50)
    code, seen = await operator.at_terminal(*override, typed="yes", columns=200)
    assert (code, "instead: projects = 1" in seen, await projects()) == (0, True, 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--plan or --feature"),
        (("--plan", "pro", "--feature", "projects=1"), "--plan or --feature"),
        (("--feature", "projects"), "KEY=VALUE"),
        (("--feature", "projects=99999999999999999999"), "larger"),
        (("--feature", "projects=1", "--quantity", "2"), "--quantity"),
        (("--plan", "pro", "--until", "soon"), "as 4d"),
        (("--feature", "projetcs=1"), "not a feature of the catalog"),
    ],
)
async def test_what_cannot_be_given_is_named(
    operator: Operator, customer_id: str, words: tuple[str, ...], told: str
) -> None:
    ran = operator.call("grants", "give", customer_id, *words, "--because", "x")
    assert (ran.code, told in ran.said) == (2, True), ran


async def test_a_plan_that_there_is_not_is_not_found(operator: Operator, customer_id: str) -> None:
    ran = operator.call("grants", "give", customer_id, "--plan", "prp", "--because", "x")
    assert (ran.code, "prp" in ran.said) == (3, True), ran


async def test_what_operators_did_is_listed_with_who_and_why(operator: Operator, customer_id: str) -> None:
    """Also when an entry is about a grant, or a run; what was refused is not there."""
    made = operator.done("grants", "give", customer_id, "--plan", "pro", "--because", "ticket 11", "--json").row
    grant_id = made["grant"]["grant_id"]
    operator.done("grants", "revoke", grant_id, "--because", "ticket 12", "--actor", "bob", "--yes")
    operator.call("grants", "give", customer_id, "--plan", "prp", "--because", "ticket 13")
    operator.done("reconcile", "--customer", customer_id, "--json")
    mine = ("audit", "list", "--customer", customer_id)
    rows = operator.done(*mine, "--json").rows
    assert [row["operation"] for row in rows] == [
        "OPERATION_RECONCILE", "OPERATION_REVOKE_GRANT", "OPERATION_CREATE_GRANT"
    ]  # fmt: skip
    assert [row["result"]["grant_id"] for row in rows[1:]] == [grant_id] * 2
    screen = operator.done(*mine).out
    for told in ("bob (as ", "ticket 12", "revoke grant", grant_id, f"run {rows[0]['result']['run_ids'][0]:.0f}"):
        assert told in screen
    assert operator.done(*mine, "--actor", "bob", "--json").row == rows[1]
    narrowed = ("--operation", "create_grant", "--identity", rows[0]["identity"], "--since", "1h")
    assert operator.done(*mine, *narrowed, "--json").row == rows[2]
    assert operator.done(*mine, "--until", "1h", "--json").rows == []
    assert operator.call(*mine, "--operation", "gossip").code == 2


# --- Findings, checkouts, status -----------------------------------------------------------------------------------------


async def test_a_finding_is_listed_and_closed(world: World, operator: Operator, customer_id: str) -> None:
    subject = f"sub_{customer_id}"
    with psycopg.connect(world.addresses["database"]) as connection:
        connection.execute(
            "INSERT INTO findings (kind, subject, customer_id, detail) VALUES ('drift', %s, %s, '{\"held\": \"active\"}')",
            (subject, customer_id),
        )
    only = ("findings", "list", "--customer", customer_id)
    assert operator.done(*only, "--json").row["detail"] == {"held": "active"}
    assert "held: active" in operator.done(*only).out
    operator.done("findings", "close", "drift", subject, "--because", "ticket 6")
    assert operator.done(*only, "--json").rows == []
    assert operator.done(*only, "--all", "--kind", "drift", "--json").row["close_time"]
    assert operator.call("findings", "close", "drift", "nobody", "--because", "x").code == 3
    assert operator.call("findings", "close", "gossip", subject, "--because", "x").code == 2


async def test_a_checkout_is_shown_with_what_stripe_said_of_it(
    world: World, operator: Operator, customer_id: str
) -> None:
    """Without its URL: whoever has that can pay."""
    session = await world.checkout(customer_id)
    show = ("checkout", "show", session.checkout_session_id)
    opened = operator.done(*show)
    assert "open" in opened.out
    assert "Nothing yet" in opened.out
    assert session.url not in opened.out
    await world.pay(session)
    await world.until_plan(customer_id, "pro")
    paid = operator.done(*show, "--json").row
    assert (paid["checkout_session"]["state"], paid["checkout_session"]["url"]) == ("STATE_COMPLETE", "")
    assert [one["type"] for one in paid["events"]] == ["checkout.session.completed"]
    assert operator.call("checkout", "show", "cs_nobody").code == 3


async def test_the_status_says_whether_it_is_ready_and_what_waits(operator: Operator) -> None:
    found = operator.done("status", "--json").row
    assert (found["ready"], found["checks"]) == (True, {"database": "ok", "schema": "ok"})
    assert "reconciled_until" in found  # null until the first round is complete
    assert "The service is ready" in operator.done("status").out
    nobody = operator.having(ops=NOWHERE).call("status")
    assert (nobody.code, NOWHERE in nobody.said) == (5, True)


# --- Reconciliation ------------------------------------------------------------------------------------------------------


async def test_everything_of_one_customer_is_brought_in(operator: Operator, subscriber: str) -> None:
    ran = operator.done("reconcile", "--customer", subscriber, "--json")
    assert (ran.row["scope"], ran.row["state"], ran.row["failed"]) == ("SCOPE_CUSTOMER", "STATE_COMPLETE", "0")
    assert "customer: complete" in ran.said
    code, seen = await operator.at_terminal("reconcile", "--since", "1h")
    assert (code, "events" in seen, "100%" in seen or "found" in seen) == (0, True, True)
    both = operator.call("reconcile", "--customer", subscriber, "--purchases")
    assert (both.code, "at a time" in both.said) == (2, True)


# --- Who may, and who answers --------------------------------------------------------------------------------------------

Change = Callable[[Operator, World], Operator]
REFUSALS: dict[str, tuple[Change, int, str]] = {
    "no credential": (lambda one, _: one.having(token_file=""), 4, "--token-file"),
    "an unknown token": (lambda one, _: one.having(token_file=one.secret("other", "not-a-token")), 4, "--token-file"),
    "the role of callers": (
        lambda one, world: one.having(token_file=one.secret("caller", world.addresses["grpc_token"])), 4, "admin"
    ),
    "the role of the gateway": (
        lambda one, world: one.having(token_file=one.secret("gateway", world.addresses["internal_token"])), 4, "admin"
    ),
    "nobody there": (lambda one, _: one.having(target=NOWHERE), 5, f"No service answers at {NOWHERE}"),
    "no file": (lambda one, _: one.having(token_file="/nowhere/token"), 2, "/nowhere/token"),
    "the public listener": (lambda one, world: one.having(target=world.addresses["grpc"]), 1, "public listener"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_whoever_is_refused_is_told_what_to_do(world: World, operator: Operator, case: str) -> None:
    """And no secret is on the screen."""
    change, code, told = REFUSALS[case]
    whoever = change(operator, world)
    for ran in (
        await whoever.run("customer", "show", "ann"),
        whoever.call("reconcile"),
        whoever.call("findings", "list"),
    ):
        assert (ran.code, ran.out, told in ran.said) == (code, "", True), ran
        for secret in ("admin_token", "grpc_token", "internal_token"):
            assert world.addresses[secret] not in ran.said
    if code == 5:
        ran = whoever.call("grants", "give", "ann", "--plan", "pro", "--because", "x")
        assert "--request-id" in ran.said  # with which it is safe to ask again


async def test_a_narrow_terminal_gets_lines_that_fit(operator: Operator, subscriber: str) -> None:
    code, seen = await operator.at_terminal("customer", "show", subscriber, columns=60)
    plain = [line for line in seen.replace("\r", "").split("\n") if "\x1b" not in line]
    assert code == 0
    assert max(map(len, plain)) <= 60
    assert "\x1b[1" in seen  # a terminal has colours
