#!/usr/bin/env bash
# Backs up a node for a scheduled task, each time into a folder of its own, and puts the newest one back. It only calls
# `rowferry backup` and `rowferry restore`.
#
#   backup.sh backup CONFIG FOLDER [KEEP]   a new backup in FOLDER; of older ones the newest KEEP (default: 7) stay
#   backup.sh restore CONFIG FOLDER         put the newest backup in FOLDER back
#
# Exit codes are rowferry's own: 0 done, 1 failed, 2 usage, 3 the backup is torn or altered, 5 database unreachable. Old
# backups go only when the new one is whole.  ROWFERRY names another command than the one in PATH.
set -euo pipefail

usage() {
    # The comment at the top, without the first line.
    sed -n -e '1d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

[ $# -ge 3 ] || usage
action="$1" config="$2" folder="$3"
shift 3
rowferry="${ROWFERRY:-rowferry}"

now="$(date -u +%Y%m%dT%H%M%SZ)"

# Whole backups with the names that this script gives, oldest first. One that is named later than now was made under a
# clock that was wrong, or is: it counts as older than all others, so that it keeps no newer one away.
whole() {
    local manifest name is_later
    for is_later in yes no; do
        for manifest in "$folder"/[0-9]*T[0-9]*Z/backup.json; do
            name="$(basename "$(dirname "$manifest")")"
            if [ -f "$manifest" ] && [ "$is_later" = "$([[ "$name" > "$now" ]] && echo yes || echo no)" ]; then
                dirname "$manifest"
            fi
        done
    done
}

case "$action" in
backup)
    [ $# -le 1 ] && [[ "${1:-7}" =~ ^[1-9][0-9]*$ ]] || usage
    "$rowferry" --config "$config" backup "$folder/$now"
    whole | head -n "-${1:-7}" | while IFS= read -r old; do
        rm -r -- "$old"
    done
    ;;
restore)
    [ $# -eq 0 ] || usage
    newest="$(whole | tail -n 1)"
    if [ -z "$newest" ]; then
        echo "backup.sh: $folder holds no whole backup" >&2
        exit 3
    fi
    exec "$rowferry" --config "$config" restore "$newest"
    ;;
*)
    usage
    ;;
esac
