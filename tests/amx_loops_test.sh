#!/usr/bin/env bash
# amx_loops_test.sh OBJECT: what the inner loops of the tile kernels cost, counted, since no tool models AMX.
# A loop of four products (2 x 2 tiles of C) loads at most four tiles, stores none and touches no stack.
set -uo pipefail
objdump -d --no-show-raw-insn "$1" | awk '
  # The line that a conditional jump backwards goes to, or 0.
  function back_to(i,   target) {
    if (text[i] !~ /\tj[a-z]+ +/ || text[i] ~ /\tjmp/) return 0
    target = text[i]; sub(/.*\tj[a-z]+ +/, "", target); sub(/ .*/, "", target)
    return target in place && place[target] <= i ? place[target] : 0
  }
  function finish(   i, j, start, inner, products, loads, bad, name) {
    for (i = 1; i <= lines; ++i) {
      if (!(start = back_to(i))) continue
      products = loads = bad = inner = 0
      for (j = start; j <= i; ++j) {
        # Not an inner loop: it has loops in it, or sets tiles up.
        if ((j < i && back_to(j)) || text[j] ~ /\tldtilecfg/) inner = 1
        if (text[j] ~ /\ttdp/) { ++products; name = text[j]; sub(/.*\ttdp/, "tdp", name); sub(/ .*/, "", name) }
        if (text[j] ~ /\ttileloadd/) ++loads
        if (text[j] ~ /\ttilestored|\(%rsp|\(%rbp/) ++bad
      }
      if (products == 4 && !inner) {
        ++seen[name]
        if (loads > 4 || bad > 0) { printf "%s: %d loads, %d stores or uses of the stack for 4 products\n", name, loads, bad; failed = 1 }
        if (loads > most[name]) most[name] = loads
      }
    }
    lines = 0; delete place
  }
  /^[0-9a-f]+ <.*>:$/ { finish(); next }
  /^ +[0-9a-f]+:/ { text[++lines] = $0; address = $1; sub(/:/, "", address); place[address] = lines }
  END {
    finish()
    split("tdpbf16ps tdpfp16ps tdpbusd tdpbssd", wanted, " ")
    for (i = 1; i <= 4; ++i) {
      if (!(wanted[i] in seen)) { print wanted[i] ": no inner loop of four products found"; failed = 1 }
      else printf "%s: %d tile loads for 4 products, %d loop(s)\n", wanted[i], most[wanted[i]], seen[wanted[i]]
    }
    exit failed
  }'
