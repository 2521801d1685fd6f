#include "flags.hpp"

#include <doctest/doctest.h>

#include <fstream>
#include <sstream>

#include "input_error.hpp"
#include "scratch_folder.hpp"

using namespace bert_qa;

namespace {

flags parse(const std::string& line) {
  std::istringstream words(line);
  std::vector<std::string> arguments;
  for (std::string word; words >> word;) arguments.push_back(word);
  return parse_flags(arguments);
}

std::string refusal(const std::string& line) {
  const auto text = message_of<input_error>([&] { parse(line); });
  CHECK(text.find('\n') == std::string::npos);
  return text;
}

const std::string command =
    "--model_name_or_path DIR --dataset_name squad --do_train --do_eval --per_device_train_batch_size 12 "
    "--learning_rate 3e-5 --num_train_epochs 2 --max_seq_length 384 --doc_stride 128 --output_dir OUT ";

}  // namespace

TEST_CASE("the command that people paste") {
  const flags given = parse(command + "--bf16 --use_ipex --no_cuda --use_cpu");
  CHECK(given.model_name_or_path == "DIR");
  CHECK(given.dataset_name == "squad");
  CHECK(given.do_train);
  CHECK(given.do_eval);
  CHECK(!given.do_predict);
  CHECK(given.per_device_train_batch_size == 12);
  CHECK(given.learning_rate == 3e-5);
  CHECK(given.num_train_epochs == 2);
  CHECK(given.max_seq_length == 384);
  CHECK(given.doc_stride == 128);
  CHECK(given.output_dir == "OUT");
  CHECK(given.bf16);
  CHECK(!given.embedded());
  REQUIRE(given.notes.size() == 1);
  CHECK(contains(given.notes[0], "--use_ipex, --no_cuda, --use_cpu: "));
  CHECK(parse(command).notes.empty());
}

TEST_CASE("what is not said has the values of run_qa.py") {
  const flags given = parse(command);
  CHECK(given.per_device_eval_batch_size == 8);
  CHECK(given.gradient_accumulation_steps == 1);
  CHECK(given.weight_decay == 0);
  CHECK(given.adam_beta1 == 0.9);
  CHECK(given.adam_beta2 == 0.999);
  CHECK(given.adam_epsilon == 1e-8);
  CHECK(given.max_grad_norm == 1);
  CHECK(given.lr_scheduler_type == lr_schedule::linear);
  CHECK(given.warmup_steps == 0);
  CHECK(given.warmup_ratio == 0);
  CHECK(!given.max_steps);
  CHECK(!given.max_train_samples);
  CHECK(!given.pad_to_max_length);
  CHECK(!given.save_total_limit);
  CHECK(given.seed == 42);
  CHECK(given.logging_steps == 500);
  CHECK(given.save_steps == 500);
  CHECK(given.save_strategy == save_when::steps);
  CHECK(given.n_best_size == 20);
  CHECK(given.max_answer_length == 30);
  CHECK(!given.version_2_with_negative);
  CHECK(given.null_score_diff_threshold == 0);
  CHECK(!given.bf16);
  CHECK(!given.fp16);
  CHECK(!given.int8);
  CHECK(!given.gradient_checkpointing);
  CHECK(!given.group_by_length);
  CHECK(!given.overwrite_output_dir);
  const flags fewest = parse("--model_name_or_path M --train_file F --do_train --output_dir O");
  CHECK(fewest.per_device_train_batch_size == 8);
  CHECK(fewest.learning_rate == 5e-5);
  CHECK(fewest.num_train_epochs == 3);
  CHECK(fewest.max_seq_length == 384);
  CHECK(fewest.doc_stride == 128);
}

TEST_CASE("every other flag") {
  const flags given = parse(
      "--model_name_or_path=M --train_file=T --validation_file V --test_file=P --do_predict --do_eval=false "
      "--max_train_samples 10 --max_eval_samples 11 --max_predict_samples 12 --per_device_eval_batch_size 3 "
      "--gradient_accumulation_steps 4 --weight_decay 0.01 --adam_beta1 0.8 --adam_beta2 0.99 --adam_epsilon "
      "1e-6 "
      "--max_grad_norm 0 --lr_scheduler_type cosine --warmup_steps 5 --warmup_ratio 0.1 --max_steps 7 --seed "
      "0 "
      "--logging_steps 8 --save_steps 9 --save_strategy epoch --save_total_limit 2 --n_best_size 6 "
      "--max_answer_length 15 --version_2_with_negative --null_score_diff_threshold -1.5 "
      "--pad_to_max_length true --threads 3 --dataset_dir D --output_dir O --overwrite_output_dir --int8 "
      "--gradient_checkpointing --group_by_length");
  CHECK(given.int8);
  CHECK(given.gradient_checkpointing);
  CHECK(given.group_by_length);
  CHECK(given.train_file == "T");
  CHECK(given.validation_file == "V");
  CHECK(given.test_file == "P");
  CHECK(given.do_predict);
  CHECK(!given.do_eval);
  CHECK(given.max_train_samples == 10);
  CHECK(given.max_eval_samples == 11);
  CHECK(given.max_predict_samples == 12);
  CHECK(given.per_device_eval_batch_size == 3);
  CHECK(given.gradient_accumulation_steps == 4);
  CHECK(given.weight_decay == 0.01);
  CHECK(given.adam_beta1 == 0.8);
  CHECK(given.adam_beta2 == 0.99);
  CHECK(given.adam_epsilon == 1e-6);
  CHECK(given.max_grad_norm == 0);
  CHECK(given.lr_scheduler_type == lr_schedule::cosine);
  CHECK(given.warmup_steps == 5);
  CHECK(given.warmup_ratio == 0.1);
  CHECK(given.max_steps == 7);
  CHECK(given.seed == 0);
  CHECK(given.logging_steps == 8);
  CHECK(given.save_steps == 9);
  CHECK(given.save_strategy == save_when::epoch);
  CHECK(given.save_total_limit == 2);
  CHECK(given.n_best_size == 6);
  CHECK(given.max_answer_length == 15);
  CHECK(given.version_2_with_negative);
  CHECK(given.null_score_diff_threshold == -1.5);
  CHECK(given.pad_to_max_length);
  CHECK(given.threads == 3);
  CHECK(given.dataset_dir == "D");
  CHECK(given.overwrite_output_dir);
  CHECK(!parse(command + "--max_steps -1").max_steps);
  CHECK(parse("--seed 18446744073709551615").seed == 18446744073709551615u);
}

TEST_CASE("a boolean alone, or with its value, in every position") {
  CHECK(parse("--bf16").bf16);
  CHECK(parse("--bf16 true").bf16);
  CHECK(parse("--bf16 True").bf16);
  CHECK(parse("--bf16=1").bf16);
  CHECK(!parse("--bf16 false").bf16);
  CHECK(!parse("--bf16=False --seed 1").bf16);
  const flags mixed = parse("--bf16 --seed 7 --version_2_with_negative no --pad_to_max_length");
  CHECK(mixed.bf16);
  CHECK(mixed.seed == 7);
  CHECK(!mixed.version_2_with_negative);
  CHECK(mixed.pad_to_max_length);
  CHECK(parse("--max-steps 3 --per-device-train-batch-size=5").per_device_train_batch_size == 5);
  CHECK(refusal("--bf16=maybe") == "--bf16: expected true or false, found \"maybe\"");
  CHECK(refusal("--bf16 maybe") == "command line: expected a flag that begins with --, found \"maybe\"");
  CHECK(!parse("--fp16 false --bf16").fp16);
}

TEST_CASE("nothing given: the embedded model and questions") {
  const flags given = parse("");
  CHECK(given.embedded());
  CHECK(given.do_train);
  CHECK(given.do_eval);
  const flags trained = parse("--bf16 --do_train");
  CHECK(trained.embedded());
  CHECK(trained.do_train);
  CHECK(!trained.do_eval);
}

TEST_CASE("without a model and data: what is not given suits the embedded set, what is given stays") {
  const flags usual = parse("");
  CHECK(usual.learning_rate == static_cast<double>(2e-3f));
  CHECK(usual.num_train_epochs == 8);
  CHECK(usual.per_device_train_batch_size == 16);
  CHECK(usual.max_seq_length == 96);
  CHECK(usual.doc_stride == 32);
  CHECK(usual.warmup_ratio == static_cast<double>(0.1f));
  CHECK(usual.logging_steps == 50);
  // Also where it is what run_qa.py has for a flag that is not given.
  const flags given = parse(
      "--learning_rate 5e-5 --num_train_epochs 3 --per_device_train_batch_size 8 --max_seq_length 384 "
      "--doc_stride 128 --warmup_ratio 0 --logging_steps 500");
  CHECK(given.learning_rate == 5e-5);
  CHECK(given.num_train_epochs == 3);
  CHECK(given.per_device_train_batch_size == 8);
  CHECK(given.max_seq_length == 384);
  CHECK(given.doc_stride == 128);
  CHECK(given.warmup_ratio == 0);
  CHECK(given.logging_steps == 500);
  CHECK(parse("--warmup_steps 0").warmup_ratio == 0);
  CHECK(parse("--max_seq_length 96").doc_stride == 32);
  CHECK(parse("--max_seq_length 384").doc_stride == 32);
  CHECK(parse("--max_seq_length 30").doc_stride == 10);
  CHECK(contains(refusal("--doc_stride 93"), "--max_seq_length 96 less 3 special tokens, found 93"));
}

TEST_CASE("a mistyped flag: the nearest is named") {
  const auto nearest = [](const std::string& line) {
    const std::string text = refusal(line), mark = "did you mean ";
    const auto at = text.find(mark);
    return at == std::string::npos ? text : text.substr(at + mark.size());
  };
  CHECK(refusal("--lerning_rate 1e-5") ==
        "--lerning_rate: expected a flag that exists, found none; did you mean --learning_rate?");
  CHECK(nearest("--learning_rte=1e-5") == "--learning_rate?");
  CHECK(nearest("--bf17") == "--bf16?");
  CHECK(nearest("--max_sequence_length 3") == "--max_seq_length?");
  CHECK(nearest("--train_batch_size 3") == "--per_device_train_batch_size?");
  CHECK(nearest("--epochs 3") == "--num_train_epochs?");
  CHECK(nearest("--doc_strid 3") == "--doc_stride?");
  CHECK(nearest("--do_tarin") == "--do_train?");
  CHECK(nearest("--qqqqzzzz") ==
        "--qqqqzzzz: expected a flag that exists, found none of that name; --help lists them");
  // It comes first, whatever else is wrong.
  CHECK(nearest("--bf16 --fp16 --do_tarin") == "--do_train?");
}

TEST_CASE("values out of range or of another kind") {
  CHECK(refusal("--seed") == "--seed: expected a value, found the end of the command line");
  CHECK(refusal("--seed --bf16") == "--seed: expected a value, found \"--bf16\"");
  CHECK(refusal("--seed 1 --seed 2") == "--seed: expected to be given once, found it twice");
  CHECK(refusal("seed") == "command line: expected a flag that begins with --, found \"seed\"");
  CHECK(refusal("-x") == "command line: expected a flag that begins with --, found \"-x\"");
  CHECK(refusal("--learning_rate fast") == "--learning_rate: expected a number from 0 to 10, found \"fast\"");
  CHECK(contains(refusal("--learning_rate -1"), "a number from 0 to 10, found \"-1\""));
  CHECK(contains(refusal("--learning_rate nan"), "found \"nan\""));
  CHECK(contains(refusal("--learning_rate 1e-5x"), "found \"1e-5x\""));
  CHECK(contains(refusal("--learning_rate="), "found \"\""));
  CHECK(contains(refusal("--per_device_train_batch_size 0"), "from 1 to 65536, found \"0\""));
  CHECK(contains(refusal("--per_device_train_batch_size 1.5"), "found \"1.5\""));
  CHECK(contains(refusal("--max_steps 99999999999999999999"), "found \"99999999999999999999\""));
  CHECK(contains(refusal("--max_train_samples 0"), "at least 1"));
  CHECK(contains(refusal("--seed -1"), "below 2^64, found \"-1\""));
  CHECK(contains(refusal("--adam_beta1 1"), "--adam_beta1: expected a number from 0 to "));
  CHECK(contains(refusal("--save_strategy often"), "no, steps or epoch, found \"often\""));
  CHECK(contains(refusal("--lr_scheduler_type polynomial"), "linear, cosine"));
  CHECK(contains(refusal("--output_dir="), "--output_dir: expected a path"));
}

TEST_CASE("flags that contradict each other or need another") {
  CHECK(refusal("--bf16 --fp16") == "--bf16, --fp16: expected one of them, found both");
  CHECK(parse("--fp16").fp16);
  CHECK(parse("--resume_from_checkpoint OUT/checkpoint-500").resume_from_checkpoint == "OUT/checkpoint-500");
  CHECK(contains(refusal("--doc_stride 384 --max_seq_length 384"),
                 "--doc_stride: expected less than the window"));
  CHECK(contains(refusal("--doc_stride 381"), "found 381"));
  CHECK(parse("--doc_stride 380 --max_seq_length 384").doc_stride == 380);
  CHECK(contains(refusal(command + "--train_file F"),
                 "--train_file: expected no file beside --dataset_name squad"));
  CHECK(contains(refusal("--train_file F --do_train --output_dir O"), "--model_name_or_path: expected"));
  CHECK(
      contains(refusal("--model_name_or_path M --train_file F --output_dir O"), "--do_train, --do_eval or"));
  CHECK(contains(refusal("--model_name_or_path M --do_train --output_dir O"),
                 "--do_train: expected --train_file or"));
  CHECK(contains(refusal("--model_name_or_path M --train_file F --do_eval --output_dir O"),
                 "--do_eval: expected"));
  CHECK(
      contains(refusal("--model_name_or_path M --train_file F --do_predict --output_dir O"), "--test_file"));
  CHECK(contains(refusal("--do_predict"), "--test_file"));
  CHECK(contains(refusal("--model_name_or_path M --train_file F --do_train"),
                 "--output_dir: expected a folder"));
}

TEST_CASE("a JSON file as the only argument") {
  const scratch_folder folder;
  const std::string path = folder / "flags.json";
  const auto with = [&](const std::string& text) {
    std::ofstream(path) << text;
    return parse_flags(std::vector{path});
  };
  const auto refused = [&](const std::string& text) { return message_of<input_error>([&] { with(text); }); };
  const flags given = with(R"({"model_name_or_path": "my model", "train_file": "a b.json", "do_train": true,
    "output_dir": "O", "learning_rate": 3e-05, "seed": 7, "bf16": false, "max_steps": null, "use_cpu": true})");
  CHECK(given.model_name_or_path == "my model");
  CHECK(given.train_file == "a b.json");
  CHECK(given.do_train);
  CHECK(!given.bf16);
  CHECK(given.learning_rate == 3e-5);
  CHECK(given.seed == 7);
  CHECK(given.notes.size() == 1);
  CHECK(refused("{\"sed\": 1}") ==
        path + ": --sed: expected a flag that exists, found none; did you mean --seed?");
  CHECK(refused("{\"seed\": [1]}") == path + ": --seed: expected one value, found an array");
  CHECK(refused("{\"seed\": \"x\"}") == path + ": --seed: expected a whole number below 2^64, found \"x\"");
  CHECK(refused("{\"seed\": ") == path + ": expected JSON, found its end after 9 bytes");
  CHECK(refused("[1]") == path + ": expected a JSON object of flags, found an array");
  std::filesystem::remove(path);
  CHECK(message_of<input_error>([&] { parse_flags(std::vector{path}); }) ==
        path + ": expected a JSON file of flags, found no such file");
}

TEST_CASE("help names every flag with its default, and asks for nothing else") {
  CHECK(parse("--help").help);
  CHECK(parse("-h").help);
  CHECK(parse("--version").version);
  CHECK(parse("--help --do_predict").help);
  const std::string help = help_text();
  std::istringstream lines(help);
  int listed = 0;
  for (std::string line; std::getline(lines, line);) {
    CHECK(line.size() <= 120);
    listed += line.rfind("  --", 0) == 0;
  }
  CHECK(listed == 49);
  for (const char* part :
       {"Model and data:", "Training:", "--per_device_train_batch_size N", "[5e-05]", "[384]",
        "--version_2_with_negative", "--overwrite_output_dir", "--save_total_limit N"}) {
    CHECK_MESSAGE(contains(help, part), part);
  }
  CHECK(contains(help, "Without a model and data"));
  for (const char* part : {"--use_ipex", "\n\n\n"}) {
    CHECK_MESSAGE(!contains(help, part), part);
  }
}
