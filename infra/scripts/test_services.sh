#!/usr/bin/env bash
# Makes this machine able to run Rowferry's container tests, and undoes what it did.
#
#   test_services.sh up      a Docker engine answers, the four images stand, there is a Chromium for the operations
#                            page's tests, .cache/test-services.env tells the tests
#   test_services.sh down    removes this checkout's containers; ends the engine if `up` of this checkout started it
#   test_services.sh status  says what is there
#
# `up` uses the engine that answers.  Where none does, and this is Debian or Ubuntu and we are root, it installs one
# and starts it by hand; there it also builds the images from Debian packages when no container registry answers.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
repo="$(cd "$here/../.." && pwd)"
images_dir="$repo/infra/images"
cache="$repo/.cache"
env_file="$cache/test-services.env"
pid_file="$cache/dockerd.pid"
engine_log="$cache/dockerd.log"
image_names=(postgres15 postgresnew rabbitmq4 rabbitmq310)
debian_default_mirror=http://deb.debian.org/debian
# The fixtures label their containers with the same value (tests/support/container_engine.py).
checkout_label="rowferry.test.checkout=$(printf '%s' "$repo" | sha256sum | cut -c1-12)"

say() { printf 'services: %s\n' "$*"; }
die() {
    printf 'services: %s\n' "$*" >&2
    exit 1
}

engine_answers() { command -v docker >/dev/null && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# Root on Debian or Ubuntu is the only place where installing packages unasked is both possible and expected.
may_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && grep -qE '^ID=(debian|ubuntu)$' /etc/os-release 2>/dev/null
}

install_packages() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]} with apt-get (log: .cache/apt.log)"
    # RUNLEVEL=1 keeps the packages from starting their daemons on a machine without systemd: the engine started
    # below must be one whose process id we know.  With systemd it changes nothing, and the engine comes up by itself.
    if ! {
        apt-get update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "${missing[@]}"
    } </dev/null >"$cache/apt.log" 2>&1; then
        tail -n 20 "$cache/apt.log" >&2
        die "apt-get could not install ${missing[*]}"
    fi
}

# Waits without a fixed sleep being the whole answer: asks again every quarter second until the engine answers,
# its process is gone, or the time is over.
engine_comes_up() {
    local pid="$1" deadline=$((SECONDS + 60))
    while [ "$SECONDS" -lt "$deadline" ]; do
        if engine_answers; then return 0; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.25
    done
    return 1
}

start_engine() {
    local options=(--pidfile "$pid_file") pid
    for attempt in full without-iptables; do
        if [ "$attempt" = without-iptables ]; then
            # A kernel without netfilter: ports are still published, by docker's own proxy process.
            options+=(--iptables=false --ip-masq=false)
            say "the engine did not start; trying again without iptables"
        fi
        rm -f "$pid_file"
        # A session of its own, so that Ctrl-C in `make test` reaches the tests and not the engine under them.
        # Descriptor 9 is our lock, which must not live as long as the engine.
        setsid dockerd "${options[@]}" </dev/null >>"$engine_log" 2>&1 9>&- &
        pid=$!
        if engine_comes_up "$pid"; then
            say "started dockerd by hand (log: .cache/dockerd.log, process $(cat "$pid_file"))"
            return 0
        fi
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    tail -n 20 "$engine_log" >&2
    die "dockerd does not start on this machine; its log is .cache/dockerd.log"
}

ensure_engine() {
    if engine_answers; then return 0; fi
    if [ -n "${DOCKER_HOST:-}" ]; then
        die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST: start that engine, or unset DOCKER_HOST"
    fi
    if ! may_install; then
        die "no Docker engine answers, and only root on Debian or Ubuntu can have one installed from here." \
            "Install and start Docker (https://docs.docker.com/engine/install/), or be root, then run this again"
    fi
    install_packages docker.io iptables
    if ! engine_answers; then start_engine; fi
}

registry_answers() {
    # Any HTTP answer will do (it is 401 without a login); a closed network fails at once or after these seconds.
    python3 - <<'PY' 2>/dev/null
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("https://registry-1.docker.io/v2/", timeout=4)
except urllib.error.HTTPError:
    pass
except Exception:
    sys.exit(1)
PY
}

recipe_digest() {
    # Whatever can change the image: its recipe, its entrypoint and this script.
    # shellcheck source=/dev/null
    (
        . "$images_dir/$1/recipe.sh"
        cat "$images_dir/$1/recipe.sh" "$images_dir/entrypoints/$ENTRYPOINT_SCRIPT"
        declare -f build_image
    ) | sha256sum | cut -c1-16
}

built_image_stands() {
    [ "$(docker image inspect --format '{{index .Config.Labels "rowferry.recipe"}}' "$2" 2>/dev/null)" = "$(recipe_digest "$1")" ]
}

debian_mirror() {
    # apt knows which of its sources is Debian's own archive, however they are written down.
    local uri
    # shellcheck disable=SC2016  # these are apt's own placeholders
    uri="$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 2>/dev/null |
        awk -F'|' '$1 == "Debian" && $2 == "Debian" && $3 ~ /^https?:/ { print $3; exit }')"
    uri="${uri:-$debian_default_mirror}"
    printf '%s\n' "${uri%/}"
}

build_image() {
    local name="$1" mirror="$2" root
    # shellcheck source=/dev/null
    . "$images_dir/$name/recipe.sh"
    root="$(mktemp -d "${TMPDIR:-/var/tmp}/rowferry-image.XXXXXX")"
    # shellcheck disable=SC2064  # the path of this very build
    trap "umount -l '$root/proc' '$root/sys' 2>/dev/null || true; rm -rf --one-file-system '$root'" EXIT
    chmod 755 "$root"

    debootstrap --foreign --variant=minbase --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
        --include="$PACKAGES" "$SUITE" "$root" "$mirror"
    # Between the two stages: nothing may start a server on this machine, no cluster or manual page is wanted, and
    # an image that is rebuilt at will needs no fsync after each file.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    mkdir -p "$root/etc/postgresql-common" "$root/etc/dpkg/dpkg.cfg.d"
    echo 'create_main_cluster = false' >"$root/etc/postgresql-common/createcluster.conf"
    printf 'force-unsafe-io\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/doc/*\n' \
        >"$root/etc/dpkg/dpkg.cfg.d/rowferry"
    DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$root" /debootstrap/debootstrap --second-stage

    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root/var/lib/rabbitmq/.erlang.cookie"
    install -m 755 "$images_dir/entrypoints/$ENTRYPOINT_SCRIPT" "$root/usr/local/bin/rowferry-entrypoint"
    umount -l "$root/proc" "$root/sys" 2>/dev/null || true
    tar --one-file-system --numeric-owner -C "$root" -c . |
        docker import \
            --change "LABEL rowferry.recipe=$(recipe_digest "$name")" \
            --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
            --change 'ENTRYPOINT ["/usr/local/bin/rowferry-entrypoint"]' \
            --change "CMD $COMMAND" --change "EXPOSE $PORT" - "$BUILT"
}

build_images() {
    local name pid failed=0 mirror proxy
    local -A jobs=()
    if ! may_install; then
        die "the images are missing ($*), no container registry answers, and only root on Debian or Ubuntu can build" \
            "them. Let this machine reach a registry, or set the image names (docs/reference/testing.md)"
    fi
    install_packages debootstrap debian-archive-keyring
    mirror="$(debian_mirror)"
    # debootstrap fetches with wget, which does not read apt's configuration.
    eval "$(apt-config shell proxy Acquire::http::Proxy)"
    if [ -n "${proxy:-}" ] && [ -z "${http_proxy:-}" ]; then export http_proxy="$proxy"; fi
    say "building $* from Debian packages; this takes some minutes once (logs: .cache/image-*.log)"
    for name in "$@"; do
        (build_image "$name" "$mirror") </dev/null >"$cache/image-$name.log" 2>&1 9>&- &
        jobs[$name]=$!
    done
    for name in "$@"; do
        pid="${jobs[$name]}"
        if ! wait "$pid"; then
            failed=1
            tail -n 15 "$cache/image-$name.log" >&2
            say "building $name failed (.cache/image-$name.log)" >&2
        fi
    done
    [ "$failed" = 0 ] || die "not every image could be built"
}

ensure_images() {
    local name wanted chosen registry=unknown to_build=()
    settings=()
    for name in "${image_names[@]}"; do
        # shellcheck source=/dev/null
        . "$images_dir/$name/recipe.sh"
        wanted="${!SETTING:-}"
        if [ -n "$wanted" ] && [ "$wanted" != "$BUILT" ]; then
            # Somebody chose this image: use it or fail, but never quietly another one.
            if ! docker image inspect "$wanted" >/dev/null 2>&1; then
                say "pulling $wanted ($SETTING)"
                docker pull --quiet "$wanted" || die "cannot pull $wanted, which $SETTING names"
            fi
            chosen="$wanted"
        elif built_image_stands "$name" "$BUILT"; then
            chosen="$BUILT"
        elif docker image inspect "$OFFICIAL" >/dev/null 2>&1; then
            chosen="$OFFICIAL"
        else
            if [ "$registry" = unknown ]; then
                if registry_answers; then registry=yes; else registry=no; fi
            fi
            if [ "$registry" = yes ] && say "pulling $OFFICIAL" && docker pull --quiet "$OFFICIAL"; then
                chosen="$OFFICIAL"
            else
                to_build+=("$name")
                chosen="$BUILT"
            fi
        fi
        settings+=("$SETTING=$chosen")
    done
    if [ ${#to_build[@]} -gt 0 ]; then build_images "${to_build[@]}"; fi
}

# The one that somebody names, else this system's own, else Debian's package, else the one that Playwright fetches.
ensure_chromium() {
    local candidate
    if [ -n "${ROWFERRY_TEST_CHROMIUM:-}" ]; then
        [ -x "$ROWFERRY_TEST_CHROMIUM" ] || die "ROWFERRY_TEST_CHROMIUM=$ROWFERRY_TEST_CHROMIUM is no program"
        return 0
    fi
    # Ubuntu's chromium is a stub that wants snapd: only Debian's is asked for.
    if grep -qE '^ID=debian$' /etc/os-release 2>/dev/null && may_install; then install_packages chromium fonts-dejavu-core; fi
    for candidate in chromium google-chrome google-chrome-stable; do
        if candidate="$(command -v "$candidate")" && "$candidate" --version >/dev/null 2>&1; then
            settings+=("ROWFERRY_TEST_CHROMIUM=$candidate")
            return 0
        fi
    done
    if [ -x "$repo/.venv/bin/playwright" ]; then
        say "fetching Playwright's Chromium (log: .cache/chromium.log)"
        "$repo/.venv/bin/playwright" install --with-deps chromium >"$cache/chromium.log" 2>&1 && return 0
    fi
    say "no Chromium for the operations page's tests: install one, or name it in ROWFERRY_TEST_CHROMIUM" >&2
}

write_env_file() {
    {
        echo "# Written by infra/scripts/test_services.sh; read by tests/conftest.py.  The environment wins over it."
        # Containers are kept between runs, so nothing may reap them when the first session ends.
        echo TESTCONTAINERS_RYUK_DISABLED=true
        if [ -z "${DOCKER_HOST:-}" ]; then
            echo TESTCONTAINERS_CONNECTION_MODE=docker_host
            echo TESTCONTAINERS_HOST_OVERRIDE=127.0.0.1
        fi
        printf '%s\n' "${settings[@]}"
    } >"$env_file.new"
    mv "$env_file.new" "$env_file"
}

up() {
    ensure_engine
    ensure_images
    ensure_chromium
    write_env_file
    say "ready: ${settings[*]#*=}"
}

down() {
    local containers pid
    if engine_answers; then
        mapfile -t containers < <(docker ps --all --quiet --filter "label=$checkout_label")
        if [ ${#containers[@]} -gt 0 ]; then
            docker rm --force --volumes "${containers[@]}" >/dev/null
            say "removed ${#containers[@]} container(s)"
        fi
    fi
    if [ -s "$pid_file" ]; then
        pid="$(cat "$pid_file")"
        # The number may have passed to another process since a reboot: it must still be our engine.
        if tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "--pidfile $pid_file"; then
            kill "$pid"
            timeout 60 tail --pid="$pid" -f /dev/null || die "dockerd (process $pid) does not end"
            say "ended dockerd (process $pid)"
        fi
        rm -f "$pid_file"
    fi
    rm -f "$env_file"
}

status() {
    if engine_answers; then say "a Docker engine answers"; else say "no Docker engine answers"; fi
    if [ -f "$env_file" ]; then cat "$env_file"; else say "not set up yet: run 'make services'"; fi
    if engine_answers; then docker ps --all --filter "label=$checkout_label" --format '{{.Names}}: {{.Status}}'; fi
}

mkdir -p "$cache"
# One at a time for each checkout: two runs would install, start and build the same things into each other.
exec 9>"$cache/test-services.script.lock"
flock 9

case "${1:-up}" in
up | down | status) "${1:-up}" ;;
*) die "unknown command '$1': up, down or status" ;;
esac
