#include "safetensors.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "files.hpp"
#include "input_error.hpp"
#include "scratch_folder.hpp"

using namespace bert_qa;

namespace {

std::string file_of(std::string header, const std::string& data = "", std::uint64_t claimed_extra = 0) {
  const std::uint64_t size = header.size() + claimed_extra;
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + data;
}

safetensors parse(const std::string& bytes) { return safetensors(std::as_bytes(std::span{bytes}), "FILE"); }

std::string refusal(const std::string& bytes) {
  // A copy that ends where its allocation ends: a read beyond it is one that the address sanitizer sees.
  const std::vector<char> exact(bytes.begin(), bytes.end());
  const auto text =
      message_of<input_error>([&] { safetensors parsed(std::as_bytes(std::span{exact}), "FILE"); });
  CHECK(text.rfind("FILE: expected ", 0) == 0);
  CHECK(text.find('\n') == std::string::npos);
  CHECK(text.size() < 400);
  return text;
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape,
                  std::uint64_t begin, std::uint64_t end) {
  return std::string("\"") + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
         ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

std::string braces(const std::string& inside) {
  std::string text(1, '{');
  return (text += inside) += '}';
}

std::vector<float> values_of(const safetensors& file, const char* name) {
  const tensor_view& tensor = file.at(name);
  std::vector<float> values(static_cast<std::size_t>(tensor.count()), NAN);
  file.read_f32(name, tensor.shape, values);
  return values;
}

}  // namespace

TEST_CASE("a file that Python wrote") {
  const mapped_file bytes(EINKORN_TEST_DATA "/python.safetensors");
  const safetensors file(bytes.bytes(), "python.safetensors");
  CHECK(file.tensors().size() == 7);
  CHECK(file.metadata() == tensor_metadata{{"format", "pt"}, {"note", "häßlich \" \\"}});

  CHECK(file.at("full").shape == std::vector<std::int64_t>{2, 3});
  CHECK(values_of(file, "full") == std::vector<float>{0.0f, -0.0f, 1.1f, -1.65f, 0x1p-149f, 3.4028235e38f});
  CHECK(std::signbit(values_of(file, "full")[1]));
  // bf16 keeps 8 significant bits: 65504 rounds to 65536.
  CHECK(values_of(file, "brain") == std::vector<float>{0.0f, -0.0f, 1.0f, -1.5f, 3.140625f, 65536.0f});
  CHECK(values_of(file, "half") == std::vector<float>{0x1p-24f, 1023 * 0x1p-24f, 0x1p-14f,
                                                      std::numeric_limits<float>::infinity(), -2.5f,
                                                      65504.0f});
  CHECK(values_of(file, "scalar") == std::vector<float>{2.5f});
  CHECK(file.at("scalar").shape.empty());
  CHECK(values_of(file, "empty").empty());
  CHECK(file.at("empty").shape == std::vector<std::int64_t>{0, 4});

  const tensor_view& numbers = file.at("numbers");
  CHECK(numbers.dtype == "I64");
  std::int64_t pair[2];
  REQUIRE(numbers.bytes.size() == sizeof pair);
  std::memcpy(pair, numbers.bytes.data(), sizeof pair);
  CHECK(pair[0] == -(std::int64_t{1} << 62));
  CHECK(pair[1] == 7);
  const tensor_view& raw = file.at("bytes");
  CHECK(raw.dtype == "U8");
  REQUIRE(raw.bytes.size() == 3);
  CHECK(raw.bytes[1] == std::byte{128});

  CHECK(file.find("none") == nullptr);
  CHECK(message_of<input_error>([&] { file.at("none"); }) ==
        "python.safetensors: expected a tensor \"none\", found none among 7");
  float room[8];
  const std::int64_t transposed[] = {3, 2}, pair_shape[] = {2};
  CHECK(message_of<input_error>([&] { file.read_f32("full", transposed, std::span(room, 6)); }) ==
        "python.safetensors: expected \"full\" of shape [3, 2], found [2, 3]");
  CHECK(message_of<input_error>([&] { file.read_f32("numbers", pair_shape, std::span(room, 2)); }) ==
        "python.safetensors: expected \"numbers\" as F32, BF16 or F16, found I64");
}

TEST_CASE("what is written is read back, aligned, in order, byte for byte") {
  const scratch_folder folder;
  const std::vector<float> weights = {1.5f, -2.0f, 3.0f, 0.0f, INFINITY, 1e-40f};
  const std::vector<std::int64_t> steps = {123, -5};
  const std::vector<std::uint8_t> flags = {9, 8, 7};
  const std::uint16_t brain[] = {0x3f80, 0xc000, 0x7f80};
  const std::vector<tensor_view> tensors = {
      view_of("bytes", {3}, flags),
      view_of("weights \"quoted\"\n", {2, 3}, weights),
      {"brain", "BF16", {3, 1}, std::as_bytes(std::span(brain))},
      {"half", "F16", {3}, std::as_bytes(std::span(brain))},
      view_of("steps", {2}, steps),
      view_of("nothing", {0, 7}, std::span<const float>{}),
      view_of("scalar", {}, std::span(weights).first(1)),
  };
  write_safetensors(folder / "out.safetensors", tensors, {{"format", "pt"}, {"step", "7"}});
  const mapped_file bytes(folder / "out.safetensors");
  const safetensors file(bytes.bytes(), "out");
  CHECK(file.metadata() == tensor_metadata{{"format", "pt"}, {"step", "7"}});
  REQUIRE(file.tensors().size() == tensors.size());
  for (const tensor_view& expected : tensors) {
    const tensor_view& found = file.at(expected.name);
    CHECK(found.dtype == expected.dtype);
    CHECK(found.shape == expected.shape);
    REQUIRE(found.bytes.size() == expected.bytes.size());
    if (!found.bytes.empty()) {
      CHECK(std::memcmp(found.bytes.data(), expected.bytes.data(), found.bytes.size()) == 0);
      const auto offset = static_cast<std::size_t>(found.bytes.data() - bytes.bytes().data());
      CHECK(offset % dtype_size(found.dtype) == 0);
    }
  }
  CHECK(file.tensors().front().name == "steps");
  CHECK(file.tensors().back().name == "bytes");
  CHECK(values_of(file, "brain") == std::vector<float>{1.0f, -2.0f, INFINITY});
  // The same bits read as fp16: 1.9 sign 0 exponent 15 fraction 0x380; -2; a NaN.
  const auto half = values_of(file, "half");
  CHECK(half[0] == 1.875f);
  CHECK(half[1] == -2.0f);
  CHECK(std::isnan(half[2]));
}

TEST_CASE("a file without tensors") {
  const scratch_folder folder;
  write_safetensors(folder / "none", {}, {});
  const mapped_file bytes(folder / "none");
  CHECK(safetensors(bytes.bytes(), "none").tensors().empty());
  CHECK(parse(file_of("{}")).tensors().empty());
}

TEST_CASE("the writer refuses what it could not read back") {
  const scratch_folder folder;
  const float values[4] = {};
  const auto refuses = [&](std::vector<tensor_view> tensors) {
    return !message_of<std::logic_error>([&] { write_safetensors(folder / "f", tensors); }).empty();
  };
  CHECK(refuses({view_of("a", {3}, values)}));
  CHECK(refuses({view_of("a", {4}, values), view_of("a", {4}, values)}));
  CHECK(refuses({view_of("__metadata__", {4}, values)}));
  CHECK(refuses({{"a", "F31", {4}, std::as_bytes(std::span(values))}}));
  CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("every fp16 value widens to the value that its bits say") {
  std::vector<std::uint16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  const scratch_folder folder;
  write_safetensors(folder / "half",
                    std::vector<tensor_view>{{"h", "F16", {65536}, std::as_bytes(std::span(bits))}});
  const mapped_file bytes(folder / "half");
  const auto values = values_of(safetensors(bytes.bytes(), "half"), "h");
  int wrong = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const int exponent = (bits[i] >> 10) & 31, fraction = bits[i] & 1023;
    double truth = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    if (exponent == 31) truth = fraction ? NAN : INFINITY;
    if (bits[i] & 0x8000) truth = -truth;
    const bool right = std::isnan(truth)
                           ? std::isnan(values[i])
                           : values[i] == truth && std::signbit(values[i]) == std::signbit(truth);
    wrong += !right;
  }
  CHECK(wrong == 0);
}

TEST_CASE("hostile files") {
  const std::string good = braces(entry("a", "F32", "[2]", 0, 8));
  const std::string eight(8, 'x');
  REQUIRE(parse(file_of(good, eight)).tensors().size() == 1);
  REQUIRE(parse(file_of(good + "   ", eight)).tensors().size() == 1);

  SUBCASE("cut anywhere") {
    const std::string whole = file_of(good, eight);
    for (std::size_t length = 0; length < whole.size(); ++length) refusal(whole.substr(0, length));
    CHECK(contains(refusal(""), "8 bytes or more, found 0"));
  }
  SUBCASE("the header's length") {
    CHECK(contains(refusal(file_of(good, eight, 9)), "a file that ends after"));
    CHECK(contains(refusal(file_of(good, eight, 99'999'999 - good.size())), "a file that ends after"));
    CHECK(contains(refusal(file_of(good, eight, 200'000'000)), "at most 100000000 bytes"));
    CHECK(contains(refusal(std::string(8, '\xff') + good), "a length of 18446744073709551615"));
    CHECK(contains(refusal(std::string(8, '\0') + good), "begins with {"));
    refusal(file_of(good, eight, 4));  // the header takes the first data bytes
  }
  SUBCASE("not JSON, or not the JSON of the format") {
    CHECK(contains(refusal(file_of("hello")), "begins with {"));
    CHECK(contains(refusal(file_of(" {}")), "begins with {"));
    CHECK(contains(refusal(file_of("{\"a\":")), "a JSON header"));
    CHECK(contains(refusal(file_of("{} {}")), "a JSON header"));
    CHECK(contains(refusal(file_of("{\"\xff\xfe\":{}}")), "a JSON header"));
    CHECK(contains(refusal(file_of("{\"a\":5}")), "an object for \"a\", found 5"));
    CHECK(contains(refusal(file_of("{\"a\":[]}")), "an object for \"a\", found an array"));
    CHECK(contains(refusal(file_of("{\"a\":null}")), "found null"));
    CHECK(contains(refusal(file_of("{\"a\":{}}")), "dtype, shape and data_offsets in \"a\""));
    CHECK(contains(refusal(file_of("{\"a\":{\"dtype\":{}}}")), "a string as dtype"));
    CHECK(contains(refusal(file_of("{\"a\":{\"dtype\":4}}")), "a string as dtype of \"a\", found 4"));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":\"x\"}}")), "an array of sizes as shape"));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":[[1]]}}")), "whole numbers"));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":[-1]}}")),
                   "whole numbers >= 0 as shape of \"a\", found -1"));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":[1.5]}}")), "found 1.5"));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":[true]}}")), "found true"));
    CHECK(contains(refusal(file_of("{\"a\":{\"colour\":1}}")), "found \"colour\""));
    CHECK(contains(refusal(file_of("{\"__metadata__\":{\"a\":1}}")), "a string for \"a\" in __metadata__"));
    CHECK(contains(refusal(file_of("{\"__metadata__\":[]}")), "an object for \"__metadata__\""));
    // Thousands of open brackets must cost neither stack nor memory.
    CHECK(contains(refusal(file_of("{\"a\":" + std::string(1'000'000, '['))), "an object for \"a\""));
    CHECK(contains(refusal(file_of("{\"a\":{\"shape\":[" + std::string(1'000'000, '0'))), "a JSON header"));
    std::string rank = "1";
    for (int i = 0; i < 100'000; ++i) rank += ",1";
    CHECK(contains(refusal(file_of(braces(entry("a", "U8", std::string("[") + rank + "]", 0, 1)), "x")),
                   "at most 32"));
    // Names come into messages: line ends and control characters must not.
    CHECK(contains(refusal(file_of("{\"a\\nb\\u001b[31m" + std::string(500, 'n') + "\":1}")),
                   "\"a\\x0ab\\x1b[31m"));
  }
  SUBCASE("names twice") {
    const std::string b = std::string(",") + entry("a", "F32", "[0]", 8, 8);
    CHECK(contains(refusal(file_of(good.substr(0, good.size() - 1) + b + "}", eight)), "\"a\" twice"));
    CHECK(contains(refusal(file_of("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}")), "\"dtype\" twice"));
    CHECK(contains(refusal(file_of("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}")), "\"k\" twice"));
  }
  SUBCASE("sizes") {
    const auto one = [&](const std::string& dtype, const std::string& shape, std::uint64_t begin,
                         std::uint64_t end) {
      return refusal(file_of(braces(entry("a", dtype, shape, begin, end)), eight));
    };
    CHECK(contains(one("F33", "[2]", 0, 8), "a known dtype for \"a\", found \"F33\""));
    CHECK(contains(one("", "[2]", 0, 8), "dtype, shape and data_offsets"));
    CHECK(contains(one("F32", "[3]", 0, 8), "12 bytes for \"a\", F32 [3], found 8"));
    CHECK(contains(one("F16", "[2]", 0, 8), "4 bytes for \"a\""));
    CHECK(contains(one("F32", "[]", 0, 8), "4 bytes"));
    CHECK(contains(one("F32", "[2]", 0, 12), "within 8 bytes of data, found 0 to 12"));
    CHECK(contains(one("F32", "[2]", 8, 0), "in order"));
    CHECK(contains(one("F32", "[2]", 18446744073709551608u, 0), "in order"));
    CHECK(contains(one("F32", "[2]", 18446744073709551608u, 18446744073709551615u), "within 8 bytes"));
    CHECK(contains(one("F32", "[4611686018427387906]", 0, 8), "fits 63 bits"));    // wraps to 8
    CHECK(contains(one("F32", "[4294967296,4294967296]", 0, 8), "fits 63 bits"));  // wraps to 0
    CHECK(contains(one("F32", "[18446744073709551615]", 0, 8), "fits 63 bits"));
    CHECK(contains(one("F32", "[18446744073709551616]", 0, 8), "whole numbers"));
    CHECK(contains(one("F32", "[0,18446744073709551615]", 0, 0), "fits 63 bits"));
    CHECK(contains(one("F32", "[0]", 0, 8), "0 bytes for \"a\""));
  }
  SUBCASE("places") {
    const auto two = [&](const std::string& first, const std::string& second) {
      return refusal(file_of(braces(first + "," + second), eight));
    };
    CHECK(contains(two(entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[1]", 4, 8)), "an overlap: 4"));
    CHECK(contains(two(entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[2]", 0, 8)), "an overlap: 0"));
    CHECK(contains(two(entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[0]", 4, 4)), "an overlap: 4"));
    CHECK(contains(two(entry("a", "U8", "[2]", 0, 2), entry("b", "F32", "[1]", 4, 8)), "a hole: 4"));
    CHECK(contains(two(entry("a", "U8", "[2]", 0, 2), entry("b", "F32", "[1]", 2, 6)),
                   "data of \"b\" at a multiple of 4 bytes, found offset 2"));
    CHECK(contains(two(entry("a", "F32", "[1]", 0, 4), entry("b", "U8", "[2]", 4, 6)),
                   "6 bytes of data, as the header says, found 8"));
    CHECK(contains(refusal(file_of(braces(entry("a", "F32", "[1]", 4, 8)), eight)), "a hole: 4"));
    CHECK(contains(refusal(file_of("{}", eight)), "0 bytes of data"));
  }
}

TEST_CASE("the header may have any length: data is read where it is") {
  for (std::size_t blanks = 0; blanks < 8; ++blanks) {
    const float value = 1.25f;
    std::string data(4, '\0');
    std::memcpy(data.data(), &value, 4);
    const std::string bytes =
        file_of(braces(entry("a", "F32", "[1]", 0, 4)) + std::string(blanks, ' '), data);
    CHECK(values_of(parse(bytes), "a") == std::vector<float>{1.25f});
  }
}
