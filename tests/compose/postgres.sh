#!/bin/sh
# What the official image's entry point does with the variables that docker-compose.yml sets, and no more.
set -eu
data=/var/lib/postgresql/18/data
if [ ! -s "$data/PG_VERSION" ]; then
  # shellcheck disable=SC2086 # POSTGRES_INITDB_ARGS is a list of words
  initdb --pgdata="$data" --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --no-locale ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  pg_ctl --pgdata="$data" --wait --options="-c listen_addresses='' -k /tmp" start
  createdb --host=/tmp --username="$POSTGRES_USER" "$POSTGRES_DB"
  pg_ctl --pgdata="$data" --wait stop
fi
exec postgres -D "$data" -k /tmp --listen_addresses='*'
