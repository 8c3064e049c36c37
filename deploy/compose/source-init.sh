#!/bin/sh
# Run once by the source's Postgres image, after the tables are made: Debezium's login and publication, and the demo's sites.
set -eu
sql() { psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"; }

sql -v debezium_password="$(cat /run/secrets/debezium)" -v verify_password="$(cat /run/secrets/verify)" -f /siteview/source.sql
sql -f /siteview/seed.sql
