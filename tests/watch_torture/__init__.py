"""A watch that survives: thousands of changes, with servers, clients and PostgreSQL killed, the clock moved, readers asleep."""
