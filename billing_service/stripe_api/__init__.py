"""Stripe over HTTPS: the only importer of the stripe package."""
