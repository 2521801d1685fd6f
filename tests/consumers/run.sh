#!/usr/bin/env bash
# run.sh ROAD SOURCE WORK CXX: builds a separate project the way ROAD says, runs it, and checks its output.
set -euo pipefail
road=$1 source=$2 work=$3 cxx=$4
here=$source/tests/consumers hello=$source/examples/hello.cpp
rm -rf "$work"
mkdir -p "$work"

configure_and_build() {  # FOLDER [cmake arguments]
  cmake -G Ninja -S "$1" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$cxx" \
        -DHELLO="$hello" "${@:2}" >"$work/log" && cmake --build "$work/build" >>"$work/log" ||
    { cat "$work/log"; exit 1; }
}
expect() {  # PROGRAM: 96 = 32 * 1.5 * 2, and the level that it ran on
  local output
  output=$("$1")
  echo "$road: $output"
  [[ $output =~ ^96\ on\ (baseline|avx2|avx512_vnni|avx512_bf16|amx)$ ]]
}

case $road in
  add_subdirectory)
    configure_and_build "$here/add_subdirectory" -DEINKORN_SOURCE="$source"
    expect "$work/build/stranger"
    "$work/build/lanes" | tee /dev/stderr | grep -qx '4 8 16 16 16 lanes' ;;
  find_package)
    # The tree that is under test installs itself; a stranger sees the prefix alone.
    cmake --install "$5" --prefix "$work/prefix" >"$work/log"
    configure_and_build "$here/find_package" -DCMAKE_PREFIX_PATH="$work/prefix"
    expect "$work/build/stranger"
    expect "$work/build/stranger_header_only" ;;
  vendored)
    mkdir -p "$work/project/third_party"
    cp "$here/vendored/CMakeLists.txt" "$work/project/"
    cp -r "$source/include/einkorn" "$work/project/third_party/"
    configure_and_build "$work/project"
    expect "$work/build/stranger" ;;
  header_only)
    "$cxx" -std=c++20 -O2 -march=native -ffp-contract=off -DEINKORN_HEADER_ONLY -I "$source/include" "$hello" \
           -lcpu_features -o "$work/stranger"
    expect "$work/stranger" ;;
  *) echo "unknown road $road" >&2; exit 2 ;;
esac
