// einkorn_bench --serve: one request a line on the standard input, one answer a line on the standard output,
// so that another process can alternate its own measurements with ours.
//   prepare OPERATION TYPE PLACEMENT   -> ok SHAPE | error TEXT
//   run SECONDS                        -> the mean seconds of a call, over about so many seconds
//   quit
#include <chrono>
#include <iostream>
#include <sstream>
#include <string>

#include "registration.hpp"
#include "rows.hpp"

namespace bench {
namespace {

einkorn::dtype type_named(const std::string& name) {
  for (const einkorn::dtype type : {einkorn::dtype::f32, einkorn::dtype::bf16, einkorn::dtype::fp16})
    if (name == einkorn::name(type)) return type;
  throw std::invalid_argument("there is no type " + name);
}
placement placement_named(const std::string& text) {
  for (const placement where : {placement::reused, placement::rotating, placement::cache})
    if (text == name(where)) return where;
  throw std::invalid_argument("there is no placement " + text);
}

double mean_seconds(const rows_operation& op, double budget) {
  using clock = std::chrono::steady_clock;
  int set = 0, calls = 0;
  const auto next = [&] {
    op.call(set);
    set = set + 1 == op.sets ? 0 : set + 1;
  };
  next();
  const auto start = clock::now();
  double spent = 0;
  while (calls == 0 || spent < budget) {
    next();
    ++calls;
    spent = std::chrono::duration<double>(clock::now() - start).count();
  }
  return spent / calls;
}

}  // namespace

int serve() {
  rows_operation op;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    std::string verb;
    words >> verb;
    try {
      if (verb == "quit") break;
      if (verb == "prepare") {
        std::string operation, type, where;
        words >> operation >> type >> where;
        op = {};  // the memory of the one before
        op = make_operation(operation, type_named(type), placement_named(where));
        op.call(0);
        std::cout << "ok " << op.shape << std::endl;
      } else if (verb == "run" && op.call) {
        double seconds = 0;
        words >> seconds;
        std::cout << mean_seconds(op, seconds) << std::endl;
      } else {
        throw std::invalid_argument("prepare, run and quit are known");
      }
    } catch (const std::exception& e) {
      std::cout << "error " << e.what() << std::endl;
    }
  }
  return 0;
}

}  // namespace bench
