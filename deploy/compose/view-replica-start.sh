#!/bin/sh
# Start of the view's replica: copies the primary the first time, then streams from it. Runs as root, as the image does
# before it drops to postgres.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    # What a copy that was interrupted left behind.
    rm -rf "$PGDATA"/*
    chown postgres:postgres "$PGDATA"
    chmod 700 "$PGDATA"
    PGPASSWORD=$(cat /run/secrets/replication) gosu postgres pg_basebackup --write-recovery-conf --checkpoint=fast \
        --wal-method=stream --slot=view_replica --pgdata="$PGDATA" \
        --dbname="host=view-primary user=replication application_name=view_replica"
fi
exec docker-entrypoint.sh postgres "$@"
