"""One use case per module: load, decide, save. Knows neither gRPC nor SQL."""
