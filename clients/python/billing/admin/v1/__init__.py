"""Stubs generated from protos/. Regenerate with `make generate`; never edit."""
