#!/usr/bin/env bash
# Makes this machine able to run `make bench`: PostgreSQL's programs, Londiste and PgQ, and matplotlib in .venv.
# PostgreSQL is run by the benchmark itself, in a temporary folder; no cluster of this machine is touched.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$repo"

say() { printf 'bench: %s\n' "$*"; }

may_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && grep -qE '^ID=(debian|ubuntu)$' /etc/os-release 2>/dev/null
}

installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

# Debian 12's names; elsewhere the benchmark uses the PostgreSQL it finds and leaves Londiste out.
wanted=(postgresql-15 postgresql-15-pgq3 postgresql-15-pgq-node postgresql-15-londiste-sql pgqd python3-londiste)
missing=()
for package in "${wanted[@]}"; do
    installed "$package" || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ] && may_install; then
    mkdir -p .cache
    say "installing ${missing[*]} with apt-get (log: .cache/apt.log)"
    # RUNLEVEL=1 keeps the packages from starting their daemons on a machine without systemd.
    if ! { apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"; } </dev/null >.cache/apt.log 2>&1; then
        tail -n 20 .cache/apt.log >&2
        say "not all could be installed; what is missing is left out of the comparison" >&2
    fi
elif [ ${#missing[@]} -gt 0 ]; then
    say "not here: ${missing[*]}; what is missing is left out of the comparison" >&2
fi

if ! .venv/bin/python -c 'import matplotlib' 2>/dev/null; then
    say "installing matplotlib into .venv"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --editable '.[bench]'
fi
