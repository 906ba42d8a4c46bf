#!/usr/bin/env bash
# Makes sure that what pip cannot install is there, and prints the Python to use.
#
#   tools/system_setup.sh [PYTHON...]      candidates, tried before those on PATH
#
# Needed: a C++ compiler, Python >= 3.10 with venv and its headers, and the headers of Highway. What is missing is
# installed with apt-get where that is possible; nothing is touched where nothing is missing.
set -euo pipefail

say() { printf 'fuseprop: %s\n' "$*" >&2; }

# Whether the program is a Python >= 3.10 ("version") that can make environments and compile extensions ("whole").
python_is() {
  case $1 in
    version) "$2" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ;;
    whole) "$2" -c 'import ensurepip, os, sys, sysconfig, venv
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ;;
  esac >/dev/null 2>&1
}

# The first Python that is whole, else nothing.
find_python() {
  local python
  for python in "$@" python3 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
    if python_is version "$python" && python_is whole "$python"; then
      command -v "$python"
      return
    fi
  done
}

have_highway() {
  if command -v g++ >/dev/null; then
    printf '#include <hwy/highway.h>\n' | g++ -std=c++17 -x c++ -E - >/dev/null 2>&1
  else
    [ -e /usr/include/hwy/highway.h ]
  fi
}

install() {
  local as_root=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { say "neither root nor sudo"; return 1; }
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null || { say "no apt-get on this machine"; return 1; }
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
  local log
  log=$(mktemp)
  say "installing $*"
  # An old package list is refreshed only when it does not serve.
  if "${apt[@]}" install -y --no-install-recommends "$@" >"$log" 2>&1 ||
    { "${apt[@]}" update >>"$log" 2>&1 && "${apt[@]}" install -y --no-install-recommends "$@" >>"$log" 2>&1; }; then
    rm -f "$log"
    return 0
  fi
  tail -n 5 "$log" >&2
  rm -f "$log"
  return 1
}

required=()
command -v g++ >/dev/null || required+=(g++)
python=$(find_python "$@")
[ -n "$python" ] || required+=(python3 python3-venv python3-dev)
if [ ${#required[@]} != 0 ]; then
  install "${required[@]}" || { say "cannot install what is needed; please install: ${required[*]}"; exit 1; }
  [ -n "$python" ] || python=$(find_python "$@")
  [ -n "$python" ] || { say "Python >= 3.10 is needed and this system's is older; please install one"; exit 1; }
fi
# Not fatal: CMake fetches a pinned release where none is installed.
have_highway || install libhwy-dev || say "libhwy-dev cannot be installed; the build fetches Highway instead"

printf '%s\n' "$python"
