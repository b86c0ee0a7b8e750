"""How fast it is, measured side by side in one run; `make bench`. Ratios count, not numbers: machines differ."""
