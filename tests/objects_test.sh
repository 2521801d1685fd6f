#!/usr/bin/env bash
# objects_test.sh LEVEL OBJECT...: what the objects of one ISA level may contain.
#  1. Every symbol that the linker could merge or others could call is tagged with the level.
#  2. No instruction of a higher level.
# LEVEL none: an object without ISA flags, where rule 1 does not apply and rule 2 is the baseline's.
# LEVEL self: checks that this script finds offenders; OBJECT is then the compiler.
set -uo pipefail
level=$1
shift

foreign_symbols() {  # defined, global or weak, not in the level's namespaces
  nm -C --defined-only --extern-only "$2" | awk '{ $1 = ""; print substr($0, 2) }' |
    grep -vE "^[A-Za-z] .*(::level_$1::|xsimd_$1::|^V DW\.ref\.)" | grep -vE '^V DW\.ref\.' |
    grep -vE "^[A-Za-z] _ZZ*NK?7einkorn[0-9]+[a-z0-9_]+[0-9]+level_$1[0-9]"  # what nm cannot demangle
}
foreign_instructions() {
  local pattern
  case $1 in
    baseline | none) pattern='%[yzt]mm[0-9]|\sv[a-z]+[a-z0-9]*\s.*%xmm' ;;
    avx2) pattern='%[zt]mm[0-9]|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])' ;;
    avx512_vnni) pattern='%tmm[0-9]|vdpbf16ps|vcvtne2?ps2?bf16|vcvtneps2bf16' ;;
    avx512_bf16) pattern='%tmm[0-9]' ;;
    amx) pattern='\svfmadd[0-9a-z]*ph\s' ;;
  esac
  objdump -d --no-show-raw-insn "$2" | grep -E "$pattern|\s(shlx|shrx|sarx|mulx|rorx|pdep|pext|bzhi|andn|lzcnt|tzcnt|movbe)\s"
}
check() {
  local level=$1 object=$2 found status=0
  if [ "$level" != none ]; then
    found=$(foreign_symbols "$level" "$object")
    [ -z "$found" ] || { printf '%s: symbols that are not tagged %s:\n%s\n' "$object" "$level" "$found"; status=1; }
  fi
  found=$(foreign_instructions "$level" "$object" | head -n 5)
  [ -z "$found" ] || { printf '%s: instructions beyond %s:\n%s\n' "$object" "$level" "$found"; status=1; }
  return $status
}

if [ "$level" = self ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  cat >"$folder/bad.cpp" <<'END'
#include <immintrin.h>
inline __attribute__((noinline)) void leak(float* p) { _mm512_storeu_ps(p, _mm512_set1_ps(p[0])); }
namespace level_baseline { void use(float* p) { leak(p); } }
END
  "$1" -mavx512f -O2 -c "$folder/bad.cpp" -o "$folder/bad.o" || exit 1
  output=$(check baseline "$folder/bad.o") && { echo "an untagged AVX-512 function was not found"; exit 1; }
  grep -q 'symbols that are not tagged' <<<"$output" && grep -q 'instructions beyond' <<<"$output" ||
    { echo "only part was found: $output"; exit 1; }
  echo "the checks find an untagged AVX-512 function"
  exit 0
fi

status=0
for object in "$@"; do check "$level" "$object" || status=1; done
[ $status -eq 0 ] && echo "$level: all symbols tagged, no instruction beyond the level"
exit $status
