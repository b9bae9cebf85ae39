#!/usr/bin/env bash
# Exchanges changes by file, for a scheduled task or a person with a USB stick: takes in what others left, then gives
# out what they lack. It only calls `rowferry pull` and `rowferry push`.
#
#   push_pull.sh pull CONFIG FILE...       apply files that came from other nodes
#   push_pull.sh push CONFIG OUT/ [CLIENT] write what CLIENT (default: file) has not been given yet
#
# OUT/ is a folder, made where it is missing: each file in it is called by its LSNs and none is ever replaced. With the
# name of a file instead, a push ends with 1 until that file was taken away.
#
# Exit codes are rowferry's own: 0 done, 1 failed, 2 usage, 3 a file was refused, 4 something was set aside (look with
# `rowferry dlq list`), 5 database unreachable.  ROWFERRY names another command than the one in PATH.
set -euo pipefail

usage() {
    # The comment at the top, without the first line.
    sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

[ $# -ge 3 ] || usage
action="$1" config="$2"
shift 2
rowferry="${ROWFERRY:-rowferry}"

case "$action" in
pull)
    files=()
    for file in "$@"; do
        files+=(--file "$file")
    done
    exec "$rowferry" --config "$config" pull "${files[@]}"
    ;;
push)
    [ $# -le 2 ] || usage
    exec "$rowferry" --config "$config" push --file "$1" ${2:+--client "$2"}
    ;;
*)
    usage
    ;;
esac
