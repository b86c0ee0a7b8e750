"""Verifies the webhooks that Stripe signs, on the raw body, and forwards them to the service."""
