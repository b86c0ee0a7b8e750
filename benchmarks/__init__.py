"""Measurements, side by side in one run: ratios and medians, never a test of time."""
