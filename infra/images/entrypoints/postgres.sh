#!/bin/sh
# First process of the PostgreSQL test image.  Understands the variables of the official image that the fixtures use:
# POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, POSTGRES_INITDB_ARGS and PGDATA.
set -eu

if [ "${1:-postgres}" != postgres ]; then
    exec "$@"
fi
[ $# -eq 0 ] || shift

: "${PGDATA:=/var/lib/postgresql/data}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
: "${POSTGRES_PASSWORD:?POSTGRES_PASSWORD must be set}"
PATH="$(echo /usr/lib/postgresql/*/bin):$PATH"
export PGDATA PATH

as_postgres() {
    setpriv --reuid=postgres --regid=postgres --init-groups "$@"
}

mkdir -p /var/run/postgresql "$(dirname "$PGDATA")"
chown postgres:postgres /var/run/postgresql "$(dirname "$PGDATA")"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # Made beside its place and renamed at the end: a container killed half way starts over instead of serving half a cluster.
    new="$PGDATA.new"
    rm -rf "$new"
    password_file="$(mktemp)"
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password_file"
    chown postgres:postgres "$password_file"
    # shellcheck disable=SC2086  # the arguments are meant to be split, as the official image does
    as_postgres initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$password_file" \
        --auth-local=trust --auth-host=scram-sha-256 ${POSTGRES_INITDB_ARGS:-}
    rm -f "$password_file"
    echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$new/postgresql.conf"
    if [ "$POSTGRES_DB" != postgres ]; then
        echo "CREATE DATABASE \"$POSTGRES_DB\";" | as_postgres postgres --single -D "$new" postgres >/dev/null
    fi
    rm -rf "$PGDATA"
    mv "$new" "$PGDATA"
fi

exec setpriv --reuid=postgres --regid=postgres --init-groups postgres "$@"
