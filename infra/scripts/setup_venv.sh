#!/usr/bin/env bash
# Builds .venv with Rowferry and its development tools in it, from any Python >= 3.11 of this machine.
# Called by `make setup`, which calls it again only when pyproject.toml has changed.
set -euo pipefail

repo="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cd "$repo"

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

may_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && grep -qE '^ID=(debian|ubuntu)$' /etc/os-release 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        # Asked, not only looked up: a version manager leaves names that run nothing.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

apt_install() {
    mkdir -p .cache
    say "installing $* with apt-get (log: .cache/apt.log)"
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
        </dev/null >.cache/apt.log 2>&1; then
        tail -n 20 .cache/apt.log >&2
        die "apt-get could not install $*"
    fi
}

if ! python="$(find_python)"; then
    may_install || die "no Python >= 3.11 here: install one (with its venv module), or name it: make setup PYTHON=..."
    apt_install python3 python3-venv
    python="$(find_python)" || die "this system's python3 is older than 3.11: install a newer one and name it with PYTHON=..."
fi

# Debian keeps ensurepip, without which a new venv has no pip, in a package of its own.
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    package="$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
    may_install || die "$python has no venv module: install it (on Debian or Ubuntu: apt-get install $package)"
    apt_install "$package"
fi

if ! .venv/bin/python -c '' 2>/dev/null; then
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
# -qq: only errors; some machines' pip settings make it warn once for each package.
say "installing Rowferry and its development tools into .venv"
.venv/bin/python -m pip install -qq --disable-pip-version-check --editable '.[dev,redis]'
