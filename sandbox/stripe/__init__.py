"""A stand-in for Stripe: stateful, loopback only, spoken to through the real SDK over HTTP. No money moves.

A request's way: `api` (key, version, idempotency) → `form` → `validation` → the noun's own module → `rendering`.
`account` is what all nouns share: the objects, the clock and the event log; `deliveries` carries events to the webhook.
"""
