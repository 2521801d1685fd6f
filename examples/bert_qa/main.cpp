// bert_qa: fine-tunes BERT for question answering on the CPU, as run_qa.py of Transformers.
//
//   bert_qa                                   trains the small BERT that is compiled in
//   bert_qa --model_name_or_path DIR --train_file F --validation_file F --do_train --do_eval --output_dir OUT
#include <cstdio>
#include <einkorn/config.hpp>
#include <exception>
#include <string>
#include <vector>

#include "flags.hpp"
#include "run.hpp"

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const bert_qa::flags given = bert_qa::parse_flags(arguments);
    if (given.help) {
      std::fputs(bert_qa::help_text().c_str(), stdout);
    } else if (given.version) {
      std::puts("bert_qa " EINKORN_VERSION_STRING);
    } else {
      bert_qa::run(given);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bert_qa: %s\n", error.what());
    return 2;
  }
}
