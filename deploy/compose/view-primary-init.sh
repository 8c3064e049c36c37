#!/bin/sh
# Run once by the view primary's Postgres image: logins, databases, and what its replica needs.
set -eu
secret() { cat "/run/secrets/$1"; }
sql() { psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"; }

sql -v migrate_password="$(secret migrate)" -v writer_password="$(secret writer)" -v reader_password="$(secret reader)" \
    -v replication_password="$(secret replication)" -f /siteview/view.sql
sql -v contacts_migrate_password="$(secret contacts_migrate)" -v importer_password="$(secret importer)" \
    -v jobs_password="$(secret jobs)" -f /siteview/contacts.sql
# The slot keeps what the replica has not received yet.
sql -c "select pg_create_physical_replication_slot('view_replica')"
echo 'host replication replication all scram-sha-256' >> "$PGDATA/pg_hba.conf"
