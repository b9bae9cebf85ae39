# shellcheck shell=bash disable=SC2034
# PostgreSQL 15.  Read by infra/scripts/test_services.sh.
SETTING=ROWFERRY_TEST_POSTGRES_IMAGE
OFFICIAL=postgres:15
BUILT=rowferry-test/postgres:15
SUITE=bookworm
PACKAGES=postgresql-15
ENTRYPOINT_SCRIPT=postgres.sh
COMMAND='["postgres"]'
PORT=5432
