#!/usr/bin/env bash
# Installs what is missing, builds, and runs the CPU tests. Exits with ctest's result.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
Usage: tests/run.sh [--preset NAME] [--label REGEX] [--quick] [--no-install] [--help]

  --preset NAME   dev (default), release, asan, tsan, ubsan: how to build, in build/NAME
  --label REGEX   only tests whose label matches: arch, unit, contract, integration, model, fuzz, gpu
  --quick         only what needs no started processes: arch, unit, contract
  --no-install    the packages are there already
TEXT
}

fail() {
  printf 'tests/run.sh: %s\n' "$*" >&2
  exit 2
}

preset=dev
label=
install=1
while [ $# -gt 0 ]; do
  case "$1" in
    --preset) preset=${2:?--preset needs a name}; shift ;;
    --preset=*) preset=${1#*=} ;;
    --label) label=${2:?--label needs a value}; shift ;;
    --label=*) label=${1#*=} ;;
    --quick) label='^(arch|unit|contract)$' ;;
    --no-install) install= ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$1'" ;;
  esac
  shift
done
case "$preset" in
  dev | release | asan | tsan | ubsan) ;;
  *) fail "unknown preset '$preset', allowed: dev, release, asan, tsan, ubsan" ;;
esac

root=$PWD
export ASAN_OPTIONS="halt_on_error=1:detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1"
export LSAN_OPTIONS="suppressions=$root/tests/support/lsan.supp:print_suppressions=0"
export UBSAN_OPTIONS="halt_on_error=1:print_stacktrace=1"
# Debian's libgrpc, absl and UCX are not instrumented: without both options they drown the run in false reports.
export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:ignore_noninstrumented_modules=1:suppressions=$root/tests/support/tsan.supp"
# UCX hooks madvise, which a thread calls on its way out, when ThreadSanitizer has forgotten it already: it would crash.
if [ "$preset" = tsan ]; then export UCX_MEM_MMAP_HOOK_MODE=none; fi

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

if [ -n "$install" ]; then
  step "packages"
  ./deploy/install_deps.sh --tests
fi
step "configure: preset $preset"
mkdir -p build
cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 || { cat "build/configure-$preset.log"; exit 1; }
step "build"
cmake --build "build/$preset"
step "test"
cd "build/$preset"
arguments=(--output-on-failure -j 2)
[ -z "$label" ] || arguments+=(-L "$label")
ctest "${arguments[@]}"
