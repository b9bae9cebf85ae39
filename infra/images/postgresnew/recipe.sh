# shellcheck shell=bash disable=SC2034
# The newest PostgreSQL: 18 where a registry answers, else the one of Debian's stable release.
# Read by infra/scripts/test_services.sh.
SETTING=ROWFERRY_TEST_NEW_POSTGRES_IMAGE
OFFICIAL=postgres:18
BUILT=rowferry-test/postgres:17
SUITE=trixie
PACKAGES=postgresql-17
ENTRYPOINT_SCRIPT=postgres.sh
COMMAND='["postgres"]'
PORT=5432
