"""Everything `make run` starts beside the two programs: embedded Postgres, stand-in Stripe, storefront. Nothing imports it but tests."""
