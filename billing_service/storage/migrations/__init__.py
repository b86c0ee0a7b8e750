"""The schema's history; alembic loads it by path."""
