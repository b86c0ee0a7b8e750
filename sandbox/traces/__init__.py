"""A place for traces to go to: takes them over OTLP, keeps the newest in memory, and draws each as a waterfall."""
