"""Postgres: SQLAlchemy Core on psycopg 3. The only place with SQL; one module per noun."""
