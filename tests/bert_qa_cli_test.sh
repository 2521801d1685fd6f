#!/usr/bin/env bash
# bert_qa from the outside. Bad input: exit code 2, one line on stderr that names the place, what was expected
# and what was found, and nothing written. Good input: the files that Transformers would have written.
# bert_qa_cli_test.sh BERT_QA
set -uo pipefail
program=$1
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
failures=0 checks=0
fail() { echo "FAILED: $*"; failures=$((failures + 1)); }

# refuses WORDS -- ARGUMENTS: the line must contain each of the words, which are separated by |
refuses() {
  local words=$1
  shift 2
  checks=$((checks + 1))
  rm -rf "$work/out"
  "$program" "$@" >"$work/stdout" 2>"$work/stderr"
  local code=$?
  [ $code = 2 ] || fail "exit code $code, expected 2: $*"
  [ "$(wc -l <"$work/stderr")" = 1 ] || { fail "not one line on stderr: $*"; cat "$work/stderr"; }
  grep -q '^bert_qa: ' "$work/stderr" || fail "the line does not begin with the program: $(cat "$work/stderr")"
  local word
  while IFS= read -r word; do
    grep -qF -- "$word" "$work/stderr" || fail "no '$word' in: $(cat "$work/stderr")"
  done < <(tr '|' '\n' <<<"$words")
  [ ! -e "$work/out" ] || [ -z "$(ls -A "$work/out")" ] || fail "left files behind: $(ls -A "$work/out")"
}

cat >"$work/train.json" <<'JSON'
{"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": "Anna lives in Rome since 1999.",
 "qas": [{"id": "1", "question": "Where does Anna live?", "answers": [{"text": "Rome", "answer_start": 14}]},
         {"id": "2", "question": "Since when?", "answers": [{"text": "1999", "answer_start": 25}]}]}]}]}
JSON
sed 's/"answers": \[[^]]*\]/"answers": []/g' "$work/train.json" >"$work/unlabelled.json"

# A model to damage: one step of the embedded one.
"$program" --do_train --max_steps 1 --max_train_samples 8 --output_dir "$work/model" >"$work/stdout" 2>&1 ||
  { cat "$work/stdout"; exit 1; }
for file in config.json vocab.txt model.safetensors tokenizer_config.json train_results.json all_results.json \
            trainer_state.json; do
  [ -s "$work/model/$file" ] || fail "no $file was written"
done
grep -q '^summary {.*"step_seconds_median"' "$work/stdout" || fail "no summary line"

# The windows of the embedded questions overlap by less than run_qa's, so that they can be as short as its own.
"$program" --do_train --max_steps 1 --max_train_samples 8 --max_seq_length 96 >"$work/stdout" 2>&1 ||
  fail "no run with --max_seq_length 96: $(cat "$work/stdout")"
checks=$((checks + 1))

damaged() { rm -rf "$work/bad"; cp -r "$work/model" "$work/bad"; }
common=(--train_file "$work/train.json" --do_train --max_seq_length 64 --doc_stride 16 --output_dir "$work/out")
window=(--max_seq_length 64 --doc_stride 16)
model=(--model_name_or_path "$work/model")
bad=(--model_name_or_path "$work/bad")

# And it can be used: trained further from the folder, evaluated, with predictions.
"$program" "${model[@]}" "${common[@]}" --validation_file "$work/train.json" --do_eval --do_predict \
  --test_file "$work/train.json" --num_train_epochs 1 --save_steps 1 --per_device_train_batch_size 1 --bf16 \
  >"$work/stdout" 2>"$work/stderr" || fail "a good run ended with $?: $(cat "$work/stderr")"
grep -q '"predict_f1"' "$work/out/predict_results.json" || fail "questions with answers are not scored"
for file in eval_results.json eval_predictions.json eval_nbest_predictions.json predict_predictions.json \
            checkpoint-1/model.safetensors checkpoint-1/training_state.safetensors \
            checkpoint-1/trainer_state.json checkpoint-1/config.json checkpoint-2/config.json; do
  [ -s "$work/out/$file" ] || fail "no $file was written"
done
rm -rf "$work/out"
"$program" "${model[@]}" "${common[@]}" --validation_file "$work/train.json" --do_eval --num_train_epochs 2 \
  --per_device_train_batch_size 1 --save_strategy epoch --fp16 --gradient_checkpointing --group_by_length --int8 \
  --pad_to_max_length false >"$work/stdout" 2>"$work/stderr" || fail "fp16 and int8 ended with $?: $(cat "$work/stderr")"
grep -q '"loss_scale":' "$work/stdout" || fail "no loss scale in the summary"
grep -q '"eval_dtype":"int8"' "$work/stdout" || fail "the summary does not say that int8 was evaluated"
grep -q '^memory after the first step' "$work/stdout" "$work/stderr" || fail "no plan of the memory"
grep -aq 'scaler.scale' "$work/out/checkpoint-2/training_state.safetensors" || fail "no loss scale in the checkpoint"
[ -e "$work/out/checkpoint-4" ] && [ ! -e "$work/out/checkpoint-1" ] || fail "not a checkpoint after each epoch"
checks=$((checks + 4))

# A run that goes on, from the latest checkpoint or a named one, ends with the bits of one that was never stopped.
options=("${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" --num_train_epochs 2 --save_steps 1
         --per_device_train_batch_size 1 --fp16 --group_by_length --pad_to_max_length false --logging_steps 3)
rm -rf "$work/out" "$work/whole"
"$program" "${options[@]}" --output_dir "$work/whole" >"$work/stdout" 2>&1 || fail "the whole run ended with $?"
mkdir "$work/out" && cp -r "$work/whole/checkpoint-1" "$work/out"
"$program" "${options[@]}" --output_dir "$work/out" >"$work/stdout" 2>&1 || { fail "no going on: $?"; cat "$work/stdout"; }
grep -q 'going on from .*checkpoint-1, step 1' "$work/stdout" || fail "it does not say that it goes on"
"$program" "${options[@]}" --output_dir "$work/named" --resume_from_checkpoint "$work/whole/checkpoint-2" \
  >"$work/stdout" 2>&1 || fail "no going on from a named checkpoint: $?"
for again in out named; do
  for file in model.safetensors checkpoint-4/training_state.safetensors checkpoint-4/trainer_state.json; do
    cmp -s "$work/whole/$file" "$work/$again/$file" || fail "$again/$file differs from that of a whole run"
  done
  [ "$(grep -c '"grad_norm"' "$work/$again/trainer_state.json")" = 1 ] || fail "$again: not one entry in the log"
  [ "$(grep '"train_loss"' "$work/$again/train_results.json")" = "$(grep '"train_loss"' "$work/whole/train_results.json")" ] ||
    fail "$again: train_loss is not the mean over all steps"
done
checks=$((checks + 11))

# From the checkpoint of the last step on there is nothing to train, and the model is evaluated.
"$program" "${options[@]}" --do_eval --validation_file "$work/train.json" --output_dir "$work/done" \
  --do_predict --test_file "$work/unlabelled.json" --resume_from_checkpoint "$work/whole/checkpoint-4" \
  >"$work/stdout" 2>&1 || fail "no going on from the last step: $?"
grep -q 'step 4: nothing is left to train' "$work/stdout" || fail "it does not say that nothing is left to train"
cmp -s "$work/whole/model.safetensors" "$work/done/model.safetensors" || fail "the model of the last step differs"
grep -q '"predict_runtime"' "$work/done/predict_results.json" || fail "no results of a prediction"
grep -q 'predict_f1' "$work/done/all_results.json" && fail "questions without answers are scored"
grep -q '"f1"' "$work/done/all_results.json" || fail "the results of the evaluation are gone"
[ -s "$work/done/eval_results.json" ] || fail "the last step is not evaluated"
checks=$((checks + 6))

# A run that was killed after its last checkpoint: what is known of its training is written, and its folder tidied.
rm -rf "$work/out" && mkdir "$work/out" && cp -r "$work/whole"/checkpoint-* "$work/out"
mv "$work/out/checkpoint-1" "$work/out/.checkpoint-1.partial" && touch "$work/out/.checkpoint-1.lock"
"$program" "${options[@]}" --save_total_limit 2 --output_dir "$work/out" >"$work/stdout" 2>&1 || fail "no end of a killed run: $?"
for key in epoch train_loss total_flos train_samples; do
  for file in train_results.json all_results.json trainer_state.json; do
    grep -h "\"$key\"" "$work/whole/$file" | tail -n 1 | tr -d ' ,' >"$work/expected"
    grep -h "\"$key\"" "$work/out/$file" | tail -n 1 | tr -d ' ,' | cmp -s - "$work/expected" || fail "$file: not the $key of a whole run"
  done
done
grep -q train_runtime "$work/out"/*.json && fail "a time that nobody measured"
[ "$(cd "$work/out" && ls -Ad .checkpoint-* checkpoint-* 2>/dev/null | tr '\n' ' ')" = "checkpoint-3 checkpoint-4 " ] ||
  fail "not the two latest checkpoints: $(ls -A "$work/out")"
cp -r "$work/whole" "$work/twice"
"$program" "${options[@]}" --output_dir "$work/twice" >"$work/stdout" 2>&1 || fail "no second end: $?"
for file in train_results.json all_results.json trainer_state.json; do
  cmp -s "$work/whole/$file" "$work/twice/$file" || fail "$file is not what it was"
done
checks=$((checks + 17))

# The last step has a checkpoint, wherever it falls; an epoch that is begun counts as one.
for strategy in "epoch --num_train_epochs 1.5" "steps --save_steps 2 --max_steps 3" "no --max_steps 3"; do
  rm -rf "$work/out"
  # shellcheck disable=SC2086
  "$program" "${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" --per_device_train_batch_size 1 \
    --output_dir "$work/out" --save_strategy $strategy >"$work/stdout" 2>&1 || fail "$strategy: $?"
  expected="checkpoint-2 checkpoint-3 "
  [ "${strategy%% *}" = no ] && expected=
  [ "$(cd "$work/out" && ls -d checkpoint-* 2>/dev/null | tr '\n' ' ')" = "$expected" ] ||
    fail "$strategy: not the checkpoints '$expected'"
  grep -q '"num_train_epochs": 2,' "$work/out/trainer_state.json" || fail "$strategy: not two epochs"
  checks=$((checks + 2))
done

# One step without a finite loss (a token of the second question is infinite) is none of the mean; neither when going on.
damaged
header=$(od -An -t u8 -N 8 "$work/bad/model.safetensors" | tr -d ' ')
table=$(head -c $((8 + header)) "$work/bad/model.safetensors" | tail -c "$header" |
  grep -o '"bert.embeddings.word_embeddings.weight":{[^}]*}' | grep -o 'data_offsets":\[[0-9]*' | grep -o '[0-9]*$')
token=$(($(grep -nx when "$work/bad/vocab.txt" | cut -d: -f1) - 1))
printf '\0\0\200\177' | dd of="$work/bad/model.safetensors" bs=1 seek=$((8 + header + table + token * 128 * 4)) \
  conv=notrunc 2>/dev/null
rm -rf "$work/out"
"$program" "${bad[@]}" --train_file "$work/train.json" --do_train "${window[@]}" --per_device_train_batch_size 1 \
  --num_train_epochs 2 --logging_steps 1 --save_steps 1 --output_dir "$work/out" >"$work/stdout" 2>&1 || fail "infinite: $?"
grep -q '"skipped_steps":2' "$work/stdout" || fail "not the second question's steps are skipped"
grep -q '"last_loss":[0-9]' "$work/stdout" || fail "no loss of the last steps"
[ "$(grep -c '"loss": null' "$work/out/trainer_state.json")" = 2 ] || fail "the log invents losses of skipped steps"
grep -q '"train_loss": [0-9]' "$work/out/train_results.json" || fail "no train_loss"
rm -r "$work/out"/checkpoint-4 "$work/out"/checkpoint-3 && cp "$work/out/train_results.json" "$work/expected"
"$program" "${bad[@]}" --train_file "$work/train.json" --do_train "${window[@]}" --per_device_train_batch_size 1 \
  --num_train_epochs 2 --logging_steps 1 --output_dir "$work/out" >"$work/stdout" 2>&1 || fail "infinite, going on: $?"
[ "$(grep '"train_loss"' "$work/out/train_results.json")" = "$(grep '"train_loss"' "$work/expected")" ] ||
  fail "train_loss is not that of the whole run"
checks=$((checks + 5))

# A run that starts anew leaves no checkpoint of an earlier one, and everything else alone. What is left of the first
# checkpoint of a run that was killed does not make a folder a used one.
rm -rf "$work/out" && cp -r "$work/whole" "$work/out"
mkdir "$work/out/checkpoint-9" && touch "$work/out/checkpoint-9/optimizer.pt"
"$program" "${options[@]}" --max_steps 2 --overwrite_output_dir --output_dir "$work/out" >"$work/stdout" 2>&1 ||
  fail "no starting anew: $?"
grep -q 'going on from' "$work/stdout" && fail "it did not start anew"
[ -e "$work/out/checkpoint-1" ] && [ ! -e "$work/out/checkpoint-3" ] || fail "a checkpoint of an earlier run is left"
[ -e "$work/out/checkpoint-9/optimizer.pt" ] || fail "a checkpoint of another program was removed"
rm -rf "$work/out" && mkdir -p "$work/out/.checkpoint-7.partial" && touch "$work/out/.checkpoint-7.lock"
"$program" "${options[@]}" --max_steps 1 --output_dir "$work/out" >"$work/stdout" 2>&1 ||
  fail "no run after one that was killed: $(cat "$work/stdout")"
[ ! -e "$work/out/.checkpoint-7.partial" ] && [ ! -e "$work/out/.checkpoint-7.lock" ] || fail "its remains are still there"
checks=$((checks + 5))

# Not the checkpoint that the model is read from; and none before a first step has succeeded.
rm -rf "$work/again" && cp -r "$work/whole" "$work/again" && ln -s again/checkpoint-2 "$work/link"
anew=(--train_file "$work/train.json" --do_train "${window[@]}" --max_steps 1 --overwrite_output_dir
      --per_device_train_batch_size 1 --output_dir "$work/again")
for from in again/checkpoint-2 link; do
  refuses "--overwrite_output_dir|--model_name_or_path|again/checkpoint-2" -- --model_name_or_path "$work/$from" "${anew[@]}"
done
questions=$(for i in $(seq 4000); do
  printf '{"id": "%d", "question": "Since when?", "answers": [{"text": "1999", "answer_start": 25}]}, ' "$i"; done)
echo '{"data": [{"paragraphs": [{"context": "Anna lives in Rome since 1999.", "qas": ['"${questions%, }"']}]}]}' \
  >"$work/long.json"
"$program" "${model[@]}" "${anew[@]/train.json/long.json}" --gradient_accumulation_steps 4000 \
  >"$work/stdout" 2>&1 &  # a step of seconds, which is not let end
while kill -0 $! 2>/dev/null && ! grep -q '^training on' "$work/stdout"; do sleep 0.1; done
sleep 0.5
kill -9 $! && wait $! 2>/dev/null
grep -q '^training on' "$work/stdout" || fail "no training to kill: $(cat "$work/stdout")"
[ -e "$work/again/checkpoint-4/training_state.safetensors" ] || fail "checkpoints went before the first step"
"$program" --model_name_or_path "$work/again" "${anew[@]}" --save_steps 1 >"$work/stdout" 2>&1 ||
  fail "no starting anew from the model of the run before: $(cat "$work/stdout")"
[ -e "$work/again/checkpoint-1" ] && [ ! -e "$work/again/checkpoint-4" ] || fail "not the new run's checkpoint only"
checks=$((checks + 2))
rm -rf "$work/damaged" && cp -r "$work/whole/checkpoint-1" "$work/damaged"
truncate -s -8 "$work/damaged/training_state.safetensors"
refuses "training_state.safetensors" -- "${options[@]}" --output_dir "$work/out" --resume_from_checkpoint "$work/damaged"
rm "$work/damaged/trainer_state.json"
refuses "trainer_state.json" -- "${options[@]}" --output_dir "$work/out" --resume_from_checkpoint "$work/damaged"
refuses "--seed: expected 42|checkpoint-1|found 7" -- "${options[@]}" --seed 7 --output_dir "$work/out" \
  --resume_from_checkpoint "$work/whole/checkpoint-1"
refuses "--bf16, --fp16: expected fp16|checkpoint-1|found f32" -- "${options[@]/--fp16/--overwrite_output_dir}" \
  --output_dir "$work/out" --resume_from_checkpoint "$work/whole/checkpoint-1"
refuses "windows of the training data|--max_train_samples|expected 2|found 1" -- "${options[@]}" --max_train_samples 1 \
  --output_dir "$work/out" --resume_from_checkpoint "$work/whole/checkpoint-1"

# Files
refuses "nowhere.json" -- "${model[@]}" --train_file "$work/nowhere.json" --do_train "${window[@]}" \
  --output_dir "$work/out"
refuses "nomodel" -- --model_name_or_path "$work/nomodel" "${common[@]}"
echo '{"data": [' >"$work/broken.json"
refuses "broken.json" -- "${model[@]}" --train_file "$work/broken.json" --do_train "${window[@]}" --output_dir "$work/out"
echo '{"data": [{"title": "t", "paragraphs": 3}]}' >"$work/wrong.json"
refuses "wrong.json|data[0].paragraphs|array|3" -- "${model[@]}" --train_file "$work/wrong.json" --do_train \
  "${window[@]}" --output_dir "$work/out"
refuses "unlabelled.json|question \"1\"|--version_2_with_negative" -- "${model[@]}" "${common[@]}" --do_eval \
  --validation_file "$work/unlabelled.json"
mkdir "$work/used" && touch "$work/used/all_results.json"
refuses "all_results.json|an empty file" -- "${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" \
  --overwrite_output_dir --output_dir "$work/used"
[ "$(ls -A "$work/used")" = all_results.json ] || fail "trained before it looked at all_results.json"
# What fails after training all the same finds the training saved.
rm "$work/used/all_results.json" && mkdir "$work/used/eval_predictions.json"
"$program" "${model[@]}" --train_file "$work/train.json" --validation_file "$work/train.json" --do_train --do_eval \
  "${window[@]}" --num_train_epochs 1 --overwrite_output_dir --output_dir "$work/used" >"$work/stdout" 2>&1
[ $? = 2 ] && [ -s "$work/used/trainer_state.json" ] || fail "a failing evaluation takes trainer_state.json with it"
checks=$((checks + 1))
damaged; rm "$work/bad/config.json"
refuses "config.json" -- "${bad[@]}" "${common[@]}"
damaged; rm "$work/bad/vocab.txt" "$work/bad/tokenizer.json" 2>/dev/null
refuses "vocab.txt" -- "${bad[@]}" "${common[@]}"
damaged; rm "$work/bad/model.safetensors"
refuses "model.safetensors" -- "${bad[@]}" "${common[@]}"

# Contents
damaged; sed -i 's/^\[CLS\]$/cls/' "$work/bad/vocab.txt"; rm -f "$work/bad/tokenizer.json"
refuses "vocab.txt|[CLS]" -- "${bad[@]}" "${common[@]}"
damaged; sed -i 's/"model_type": *"bert"/"model_type": "gpt2"/; s/BertForQuestionAnswering/GPT2LMHeadModel/' \
  "$work/bad/config.json"
refuses "config.json|gpt2" -- "${bad[@]}" "${common[@]}"
damaged; sed -i 's/"hidden_size": *[0-9]*/"hidden_size": 30/; s/"num_attention_heads": *[0-9]*/"num_attention_heads": 3/' \
  "$work/bad/config.json"
refuses "model.safetensors|shape" -- "${bad[@]}" "${common[@]}"
damaged; sed -i 's/"vocab_size": *[0-9]*/"vocab_size": 60000000/' "$work/bad/config.json"  # 31 GB an arena
refuses "model.safetensors|word_embeddings|shape [60000000, 128]" -- "${bad[@]}" "${common[@]}"
damaged; truncate -s -100 "$work/bad/model.safetensors"
refuses "model.safetensors" -- "${bad[@]}" "${common[@]}"
damaged; printf '\xff\xff\xff\xff\xff\xff\xff\x7f' | dd of="$work/bad/model.safetensors" conv=notrunc 2>/dev/null
refuses "model.safetensors" -- "${bad[@]}" "${common[@]}"
damaged; echo extra >>"$work/bad/vocab.txt"
refuses "vocab.txt|tokens of config.json" -- "${bad[@]}" "${common[@]}"
damaged; sed -i 's/"model_max_length": *[0-9]*/"model_max_length": 48/' "$work/bad/tokenizer_config.json"
rm -rf "$work/out"
"$program" "${bad[@]}" "${common[@]}" --max_steps 1 >"$work/stdout" 2>&1 || fail "no run with 48 tokens: $(cat "$work/stdout")"
grep -q '^--max_seq_length: 64 is more than model_max_length in tokenizer_config.json; 48 are used' "$work/stdout" ||
  fail "model_max_length is no limit"
checks=$((checks + 1))

# Flags
refuses "--doc_stride|64" -- "${model[@]}" --train_file "$work/train.json" --do_train --max_seq_length 64 \
  --doc_stride 61 --output_dir "$work/out"
refuses "--learnin_rate|--learning_rate" -- "${model[@]}" "${common[@]}" --learnin_rate 1
touch "$work/file"
refuses "$work/file" -- "${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" \
  --output_dir "$work/file"
refuses "/proc/nothing" -- "${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" \
  --output_dir /proc/nothing
mkdir "$work/full"; touch "$work/full/mine"
refuses "full|--overwrite_output_dir" -- "${model[@]}" --train_file "$work/train.json" --do_train "${window[@]}" \
  --output_dir "$work/full"
[ "$(ls -A "$work/full")" = mine ] || fail "wrote into a folder that was not empty"

# ISA levels
EINKORN_ISA=sse9 refuses "EINKORN_ISA|sse9|baseline" -- --do_train --max_steps 1 --output_dir "$work/out"
if ! grep -q amx_tile /proc/cpuinfo; then
  EINKORN_ISA=amx refuses "EINKORN_ISA|amx|CPUID" -- --do_train --max_steps 1 --output_dir "$work/out"
fi

echo "$checks checks, $failures failures"
[ "$failures" = 0 ]
