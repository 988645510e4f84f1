#!/usr/bin/env bash
# Installs the Debian 12 packages that building and running Varve needs; installs only what is missing.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/install_deps.sh [--tests] [--list] [--help]

Installs, from Debian 12 packages, what building and running Varve needs. Does nothing when all of it is there.
Needs root, or sudo, only when something is missing.

  --tests  also what only tests use (redis-server, curl, fio)
  --list   prints the package names and exits
TEXT
}

PACKAGES=(
  cmake ninja-build g++ pkg-config ccache python3
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libucx-dev prometheus-cpp-dev libcivetweb-dev libspdlog-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev
  libssl-dev liburing-dev zlib1g-dev libhiredis-dev libeigen3-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
TEST_PACKAGES=(redis-server curl fio)

fail() {
  printf 'install_deps: %s\n' "$*" >&2
  exit 1
}

list_only=
for argument in "$@"; do
  case "$argument" in
    --tests) PACKAGES+=("${TEST_PACKAGES[@]}") ;;
    --list) list_only=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$argument'" ;;
  esac
done
if [ -n "$list_only" ]; then
  printf '%s\n' "${PACKAGES[@]}"
  exit 0
fi

# shellcheck source=/dev/null
distribution=$(. /etc/os-release 2>/dev/null && echo "${ID:-unknown} ${VERSION_ID:-}" || echo unknown)
if [ "$distribution" != "debian 12" ]; then
  fail "this is '$distribution'; only Debian 12 is supported. Elsewhere install the equivalents of: ${PACKAGES[*]}"
fi

missing=()
for package in "${PACKAGES[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "All ${#PACKAGES[@]} packages are installed."
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "run me as root or install sudo; missing packages: ${missing[*]}"
  as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1
}

echo "Installing ${#missing[@]} packages: ${missing[*]}"
# An unreachable extra source must not stop the install; packages that then cannot be had do.
apt update || echo "install_deps: apt-get update reported errors, going on with what is known" >&2
# Test tools come with services that must not start by themselves.
if ! apt install -y --no-install-recommends "${missing[@]}"; then
  tail -n 20 "$log" >&2
  fail "apt-get could not install: ${missing[*]}"
fi
echo "Installed."
