#!/usr/bin/env bash
# fast_math_test.sh CXX SOURCE: a file that compiles kernels refuses -ffast-math and its parts, in both modes;
# a file that only calls them may have it.
set -euo pipefail
cxx=$1 source=$2
flags=(-std=c++20 -I "$source/include")

refused() {  # FILE [flags]: #error comes from the preprocessor
  local output
  if output=$("$cxx" "${flags[@]}" -E "$@" -o /dev/null 2>&1) || [[ $output != *"no -ffast-math"* ]]; then
    echo "was not refused: $*"
    exit 1
  fi
}
for flag in -ffast-math -Ofast -ffinite-math-only; do
  refused "$source/examples/hello.cpp" -DEINKORN_HEADER_ONLY "$flag"
  refused "$source/include/einkorn/targets/kernels.cpp" -DEINKORN_TARGET=baseline "$flag"
  "$cxx" "${flags[@]}" "$flag" -fsyntax-only "$source/examples/hello.cpp"
done
"$cxx" "${flags[@]}" -DEINKORN_HEADER_ONLY -ffast-math -fno-fast-math -E "$source/examples/hello.cpp" -o /dev/null
echo "only files that compile kernels refuse -ffast-math"
