#!/usr/bin/env bash
# Starts a Redis primary and its replica, puts the proxy in front, and shows a fail-over through one address.
#   usage: run.sh [BINARY]        (default: TIDEGATE_BINARY, else target/release/tidegate)
# BASE_PORT=N uses the ports N, N+1 and N+2 instead of 6390, 6391 and 6392.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-${TIDEGATE_BINARY:-$here/../../target/release/tidegate}}")
base=${BASE_PORT:-6390}
work=$(mktemp -d)
pids=()

# Kills by process id, and waits, so that nothing is left behind however we end.
clean_up() {
    trap - EXIT
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail() { echo "FAILED: $*" >&2; exit 1; }

# Runs without rights: as ourselves, or as nobody when we are root.
unprivileged() {
    if [ "$(id -u)" -eq 0 ]; then
        exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"
    else
        exec "$@"
    fi
}

start_redis() { # name port [option ...]
    mkdir "$work/$1"
    [ "$(id -u)" -ne 0 ] || chown 65534:65534 "$work/$1"
    unprivileged redis-server --dir "$work/$1" --bind 127.0.0.1 --port "$2" --save '' --appendonly no "${@:3}" \
        >"$work/$1.log" 2>&1 &
    pids+=($!)
}

wait_for() { # what command ...
    local what=$1
    shift
    for _ in $(seq 200); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    fail "waited in vain: $what"
}

ask() { redis-cli -h 127.0.0.1 -p "$base" "$@"; }
pings() { [ "$(redis-cli -h 127.0.0.1 -p "$1" ping)" = PONG ]; }
is_in_sync() { redis-cli -h 127.0.0.1 -p $((base + 2)) info replication | grep -q master_link_status:up; }

chmod 755 "$work"
start_redis primary $((base + 1)) --repl-diskless-sync-delay 0
primary=${pids[0]}
start_redis replica $((base + 2)) --replicaof 127.0.0.1 $((base + 1))
wait_for "the primary answers" pings $((base + 1))
wait_for "the replica follows" is_in_sync

sed -e "s/:6390/:$base/; s/:6391/:$((base + 1))/; s/:6392/:$((base + 2))/" "$here/nginx.conf" >"$work/nginx.conf"
"$binary" -p "$work/" -c "$work/nginx.conf" -e stderr 2>"$work/tidegate.log" &
pids+=($!)
wait_for "the proxy answers" pings "$base"
echo "one address for two servers: 127.0.0.1:$base"

[ "$(ask set greeting hello)" = OK ] || fail "set"
[ "$(ask get greeting)" = hello ] || fail "get"
[ "$(ask -r 1000 incr count | tail -1)" = 1000 ] || fail "a thousand commands on one connection"
echo "the primary answers: greeting=$(ask get greeting) count=$(ask get count)"

kill "$primary"
wait "$primary" 2>/dev/null || true
redis-cli -h 127.0.0.1 -p $((base + 2)) replicaof no one >/dev/null
[ "$(ask get greeting)" = hello ] || fail "get after the fail-over"
[ "$(ask set greeting again)" = OK ] || fail "set after the fail-over"
echo "the primary is gone; the replica, promoted, answers: greeting=$(ask get greeting)"

[ -s "$work/sessions.log" ] || fail "sessions are logged"
echo "the last sessions:"
tail -3 "$work/sessions.log"
echo "OK"
