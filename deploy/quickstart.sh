#!/usr/bin/env bash
# From a bare Debian 12 machine to a model that decodes with its KV cache in Varve.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."  # as /proc names the programs that run

usage() {
  cat <<'TEXT'
Usage: deploy/quickstart.sh [--keep | --stop] [--help]

Installs the Debian packages that are missing, builds the release programs into build/release, starts varve-store and
varve-worker on free ports, and lets a small trained model answer questions through them, with several policies for
which KV pages to keep. The evaluation itself takes less than two minutes. One run at a time: while another one goes on,
or what it kept is still there, this script refuses.

  --keep  leaves store and worker running afterwards, to look at their status pages and metrics
  --stop  stops what an earlier --keep left running

Logs: build/quickstart. Ctrl-C stops everything that this script started.
TEXT
}

LOGS=build/quickstart
BIN=build/release/bin
PIDS=$LOGS/pids
LOCK=$LOGS/lock  # held while a run goes on
SOCKET_DIR=$LOGS/socket_dir  # holds the path: the socket itself needs a short one

say() { printf '\n== %s\n' "$*"; }
fail() {
  printf 'quickstart: %s\n' "$*" >&2
  exit 1
}

# Whether the process is still the program that this script started: its number may have been given to another.
is_ours() {
  local exe
  exe=$(readlink "/proc/$1/exe") || return 1
  [ "${exe% (deleted)}" = "$PWD/$BIN/$2" ]
}

# Lines of PIDS: "PID PROGRAM", in the order of starting.
stop_all() {
  [ -f "$PIDS" ] || return 0
  local pid program
  while read -r pid program; do
    is_ours "$pid" "$program" || continue
    kill -TERM "$pid" 2>/dev/null || continue
    for _ in $(seq 150); do
      is_ours "$pid" "$program" || break
      sleep 0.1
    done
    if is_ours "$pid" "$program"; then
      echo "$program ($pid) did not end within 15 s; killed" >&2
      kill -KILL "$pid" 2>/dev/null || true
    fi
  done < <(tac "$PIDS")
  rm -f "$PIDS"
  [ ! -f "$SOCKET_DIR" ] || rmdir "$(cat "$SOCKET_DIR")" 2>/dev/null || true
  rm -f "$SOCKET_DIR"
}

# Fails while a run goes on.
take_lock() {
  mkdir -p "$LOGS"
  exec 9>"$LOCK"
  flock -n 9 || fail "another run is going on in this checkout; wait for it, or end it with Ctrl-C"
}

# Fails when stopping what is there would take it from somebody.
refuse_a_second_run() {
  take_lock
  [ -f "$PIDS" ] || return 0
  local pid program
  while read -r pid program; do
    if is_ours "$pid" "$program"; then
      fail "an earlier run left $program ($pid) running; deploy/quickstart.sh --stop ends it"
    fi
  done <"$PIDS"
}

# start PROGRAM ARGS...: in the background, in a session of its own; sets READY to its ready line.
start() {
  local program=$1 pid
  shift
  : >"$LOGS/$program.ready"
  setsid "$BIN/$program" "$@" >"$LOGS/$program.ready" 2>"$LOGS/$program.log" </dev/null 9>&- &
  pid=$!
  echo "$pid $program" >>"$PIDS"
  for _ in $(seq 600); do
    READY=$(head -n 1 "$LOGS/$program.ready")
    [ -z "$READY" ] || return 0
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  cat "$LOGS/$program.log" >&2
  fail "$program did not become ready; its log is above and in $LOGS/$program.log"
}

# field NAME JSON
field() { /usr/bin/python3 -c 'import json, sys; print(json.loads(sys.argv[2])[sys.argv[1]])' "$1" "$2"; }

keep=
for argument in "$@"; do
  case "$argument" in
    --keep) keep=1 ;;
    --stop) take_lock; stop_all; echo "Stopped."; exit 0 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$argument'" ;;
  esac
done

refuse_a_second_run

say "1/4 packages"
./deploy/install_deps.sh

say "2/4 build (build/release)"
cmake --preset release >"$LOGS/configure.log" 2>&1 || { cat "$LOGS/configure.log" >&2; fail "cmake failed"; }
cmake --build build/release --target varve-store varve-worker varvectl varve-bench varve-eval

say "3/4 start store and worker"
stop_all
socket_dir=$(mktemp -d)
echo "$socket_dir" >"$SOCKET_DIR"
finish() {
  status=$?
  [ -n "$keep" ] && [ "$status" -eq 0 ] && return
  stop_all
}
trap finish EXIT
trap 'exit 130' INT TERM

start varve-store --listen=127.0.0.1:0 --http_listen=127.0.0.1:0 --host_tier.capacity_bytes=1GiB
store=$(field grpc "$READY")
store_http=$(field http "$READY")
echo "varve-store   gRPC $store   status http://$store_http/   metrics http://$store_http/metrics"
start varve-worker --listen="unix:$socket_dir/worker.sock" --http_listen=127.0.0.1:0 --store="$store"
worker=$(field grpc "$READY")
worker_http=$(field http "$READY")
echo "varve-worker  gRPC $worker   status http://$worker_http/   metrics http://$worker_http/metrics"

say "4/4 a trained model decodes with its KV cache in the store"
"$BIN/varve-eval" --worker "$worker" \
  --policies full,streaming,quest,arkvale --budgets 0.1 --tasks niah_single,niah_multikey --lengths 4096 --prompts 10

say "what the store counted"
"$BIN/varvectl" --store "$store" status

if [ -n "$keep" ]; then
  say "left running"
  echo "status page  http://$store_http/    metrics  http://$store_http/metrics and http://$worker_http/metrics"
  echo "look around  $BIN/varvectl --store $store status"
  echo "stop         deploy/quickstart.sh --stop"
else
  say "stopping"
  stop_all
  echo "Done. With --keep the status page and the metrics stay up to look at."
fi
