"""The billing service: checkout sessions out, verified events in, entitlements answered."""
