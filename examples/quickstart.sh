#!/usr/bin/env bash
# The main job in small: trains a BERT from scratch on the questions that are compiled into bert_qa, in f32 and
# in bf16, on the best ISA level of this machine; five steps on each other level; then a table and one answer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash .ci/install
cmake --preset release --log-level=WARNING -DEINKORN_BUILD_TESTS=OFF
echo "Building bert_qa (a few minutes the first time)"
cmake --build --preset release --target bert_qa einkorn_info | tail -n 1

bin=build/release/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset EINKORN_ISA
# Steps of this small model take milliseconds: threads that wait by spinning would lose more to a busy
# neighbour than they gain.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
echo
$bin/einkorn_info

value() { sed -n "s/^ *\"$2\": *\(-\{0,1\}[0-9.e+-]*\),\{0,1\}$/\1/p" "$1" | head -n 1; }
best=$($bin/einkorn_info | sed -n 's/^runs *\([a-z0-9_]*\).*/\1/p')

rows=()
batch=16  # of the embedded set
row() {  # LEVEL TYPE FOLDER: one line of the table from the results of a run
  local results=$3/all_results.json em f1
  em=$(value "$results" exact_match) f1=$(value "$results" f1)
  rows+=("$(awk -v level="$1" -v type="$2" -v seconds="$(value "$results" step_seconds_median)" \
                -v batch="$batch" -v em="${em:--}" -v f1="${f1:--}" 'BEGIN {
      printf "%-12s  %-4s  %9.1f  %9.0f  %6s  %6s", level, type, 1000 * seconds, batch / seconds,
             em == "-" ? em : sprintf("%.1f", em), f1 == "-" ? f1 : sprintf("%.1f", f1) }')")
}

for type in f32 bf16; do
  echo
  echo "== Training in $type on $best"
  flags=()
  [ $type = bf16 ] && flags=(--bf16)
  $bin/bert_qa --output_dir "$work/$type" "${flags[@]}"
  row "$best" $type "$work/$type"
done

echo
echo "== Five steps on each other level"
# Levels whose gates all pass, below the best one.
for level in $($bin/einkorn_info | awk '$2 == "yes" && $3 == "yes" && $4 == "yes" { print $1 }'); do
  [ "$level" = "$best" ] && continue
  for type in f32 bf16; do
    flags=()
    [ $type = bf16 ] && flags=(--bf16)
    EINKORN_ISA=$level $bin/bert_qa --do_train --max_steps 5 --output_dir "$work/$level-$type" "${flags[@]}" \
      >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    row "$level" $type "$work/$level-$type"
  done
done

echo
echo "level         type    ms/step  samples/s      EM      F1   (on questions held out of the training)"
printf '%s\n' "${rows[@]}"
