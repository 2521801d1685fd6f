#!/usr/bin/env bash
# Builds einkorn and runs all its tests: tests/run.sh [ctest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash .ci/install doctest-dev qemu-user binutils
cmake --preset release --log-level=WARNING -DEINKORN_BUILD_TESTS=ON  # the quick start leaves it off
cmake --build --preset release
build/release/bin/einkorn_info
ctest --preset release "$@"
