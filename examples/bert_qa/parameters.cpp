#include "parameters.hpp"

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>

#include "input_error.hpp"

namespace bert_qa {
namespace {

constexpr std::size_t alignment = 16;  // floats: a cache line

bool is_head(std::string_view name) { return name.starts_with("qa_outputs."); }

/// log(s) for 0 < s < 1 with basic operations only, so that every machine agrees on the last bit.
double portable_log(double s) {
  int exponent = 0;
  double m = std::frexp(s, &exponent);  // [0.5, 1)
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double t = (m - 1) / (m + 1), t2 = t * t;  // log(m) = 2 atanh(t), |t| < 0.172
  double series = 0;
  for (int k = 23; k >= 1; k -= 2) series = series * t2 + 1.0 / k;
  return 2 * t * series + exponent * 0.69314718055994530942;
}

}  // namespace

philox_block philox4x32(std::uint64_t key, philox_block c) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c.word[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c.word[2];
    c = {{static_cast<std::uint32_t>(p1 >> 32) ^ c.word[1] ^ k0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32) ^ c.word[3] ^ k1, static_cast<std::uint32_t>(p0)}};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

float normal(std::uint64_t seed, std::string_view name, std::uint64_t element) {
  std::uint32_t stream = 0x811c9dc5u;  // FNV-1a: the stream depends on the name, not on a place in a table
  for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 0x01000193u;
  for (std::uint32_t attempt = 0;; ++attempt) {
    const auto bits = philox4x32(seed, {{attempt, stream, static_cast<std::uint32_t>(element),
                                         static_cast<std::uint32_t>(element >> 32)}});
    for (int i = 0; i < 4; i += 2) {  // two tries in a block, 1.27 are needed on average
      const double u = (bits.word[i] + 0.5) * 0x1p-31 - 1, w = (bits.word[i + 1] + 0.5) * 0x1p-31 - 1;
      const double s = u * u + w * w;
      if (s < 1 && s > 0) return static_cast<float>(u * std::sqrt(-2 * portable_log(s) / s));
    }
  }
}

parameter_table::parameter_table(const bert_config& config) : config_(config) {
  const auto h = config.hidden_size, i = config.intermediate_size;
  add("qa_outputs.weight", {2, h});
  add("qa_outputs.bias", {2});
  close_group();
  for (auto layer = config.num_hidden_layers; layer-- > 0;) {
    const std::string p = "bert.encoder.layer." + std::to_string(layer) + ".";
    add(p + "output.LayerNorm.weight", {h});
    add(p + "output.LayerNorm.bias", {h});
    add(p + "output.dense.weight", {h, i});
    add(p + "output.dense.bias", {h});
    add(p + "intermediate.dense.weight", {i, h});
    add(p + "intermediate.dense.bias", {i});
    close_group();
    add(p + "attention.output.LayerNorm.weight", {h});
    add(p + "attention.output.LayerNorm.bias", {h});
    add(p + "attention.output.dense.weight", {h, h});
    add(p + "attention.output.dense.bias", {h});
    add(p + "attention.self.query.weight", {h, h});
    add(p + "attention.self.key.weight", {h, h}, true);
    add(p + "attention.self.value.weight", {h, h}, true);
    add(p + "attention.self.query.bias", {h});
    add(p + "attention.self.key.bias", {h}, true);
    add(p + "attention.self.value.bias", {h}, true);
    close_group();
  }
  const std::string e = "bert.embeddings.";
  add(e + "LayerNorm.weight", {h});
  add(e + "LayerNorm.bias", {h});
  add(e + "word_embeddings.weight", {config.vocab_size, h});
  add(e + "position_embeddings.weight", {config.max_position_embeddings, h});
  add(e + "token_type_embeddings.weight", {config.type_vocab_size, h});
  close_group();
}

parameter_table::parameter_table(const bert_config& config, einkorn::dtype narrow_type, purpose use)
    : parameter_table(config) {
  narrow_type_ = narrow_type;
  const bool training = use == purpose::training;
  value_ = memory_block(length_ * sizeof(float));
  if (training) {
    gradient_ = memory_block(length_ * sizeof(float));
    m_ = memory_block(length_ * sizeof(float));
    v_ = memory_block(length_ * sizeof(float));
  }
  for (parameter& p : table_) {
    p.value = value_.as<float>().subspan(p.offset, p.count);
    if (training) {
      p.gradient = gradient_.as<float>().subspan(p.offset, p.count);
      p.m = m_.as<float>().subspan(p.offset, p.count);
      p.v = v_.as<float>().subspan(p.offset, p.count);
    }
  }
}

/// joined: directly behind the one before, so that the two can be seen as one matrix.
void parameter_table::add(std::string name, std::vector<std::int64_t> shape, bool joined) {
  parameter p;
  p.decay = shape.size() == 2;
  p.count = 1;
  for (const auto extent : shape) p.count *= static_cast<std::size_t>(extent);
  p.name = std::move(name);
  p.shape = std::move(shape);
  if (!joined) length_ = (length_ + alignment - 1) / alignment * alignment;
  p.offset = length_;
  length_ += p.count;
  elements_ += p.count;
  table_.push_back(std::move(p));
}

void parameter_table::close_group() {
  length_ = (length_ + alignment - 1) / alignment * alignment;
  const parameter_group last = groups_.empty() ? parameter_group{} : groups_.back();
  parameter_group next;
  next.first = last.first + last.count;
  next.count = table_.size() - next.first;
  next.offset = last.offset + last.length;
  next.length = length_ - next.offset;
  groups_.push_back(next);
}

std::size_t parameter_table::index_of(std::string_view name) const {
  for (std::size_t i = 0; i < table_.size(); ++i)
    if (table_[i].name == name) return i;
  throw std::out_of_range("no parameter " + std::string(name));
}

const parameter& parameter_table::at(std::string_view name) const { return table_[index_of(name)]; }

std::vector<memory_use> parameter_table::memory() const {
  return {{"weights, f32", value_.size()},
          {"gradients of weights, f32", gradient_.size()},
          {"AdamW's moments, f32", m_.size() + v_.size()}};
}

void parameter_table::initialise(std::uint64_t seed) {
  for (parameter& p : table_) initialise(p, seed);
}

void parameter_table::initialise(parameter& p, std::uint64_t seed) {
  if (!p.decay) {
    std::ranges::fill(p.value, p.name.ends_with("LayerNorm.weight") ? 1.0f : 0.0f);
    return;
  }
  const auto range = static_cast<float>(config_.initializer_range);
  for (std::size_t i = 0; i < p.count; ++i) p.value[i] = range * normal(seed, p.name, i);
  if (p.name.ends_with("word_embeddings.weight") && config_.pad_token_id >= 0 &&
      config_.pad_token_id < config_.vocab_size) {
    const auto h = static_cast<std::size_t>(config_.hidden_size);
    std::ranges::fill(p.value.subspan(static_cast<std::size_t>(config_.pad_token_id) * h, h), 0.0f);
  }
}

std::vector<const tensor_view*> parameter_table::found_in(const safetensors& file,
                                                          const std::string& source) const {
  // Old checkpoints call the two parts of a layer normalisation gamma and beta.
  const auto find = [&](const std::string& name) -> const tensor_view* {
    std::vector<std::string> spellings = {name};
    if (const auto dot = name.find("LayerNorm."); dot != std::string::npos)
      spellings.push_back(name.substr(0, dot + 10) + (name.ends_with("weight") ? "gamma" : "beta"));
    for (const std::string& spelling : spellings) {
      if (const tensor_view* t = file.find(spelling)) return t;
      if (spelling.starts_with("bert."))
        if (const tensor_view* t = file.find(std::string_view(spelling).substr(5))) return t;
    }
    return nullptr;
  };
  std::vector<const tensor_view*> found;
  for (const parameter& p : table_) {
    found.push_back(find(p.name));
    if (found.back() != nullptr)
      file.require_f32(found.back()->name, p.shape);
    else if (!is_head(p.name))
      throw input_error(source, "a tensor " + p.name, "none of that name");
  }
  return found;
}

void parameter_table::check(const bert_config& config, const safetensors& file, const std::string& source) {
  parameter_table(config).found_in(file, source);
}

std::vector<std::string> parameter_table::load(const safetensors& file, const std::string& source,
                                               std::uint64_t seed) {
  const std::vector<const tensor_view*> found = found_in(file, source);
  std::set<std::string_view> used;
  std::string missing_head;
  for (std::size_t i = 0; i < table_.size(); ++i) {
    parameter& p = table_[i];
    if (found[i] == nullptr) {
      missing_head += (missing_head.empty() ? "" : ", ") + p.name;
      initialise(p, seed);
      continue;
    }
    used.insert(found[i]->name);
    file.read_f32(found[i]->name, p.shape, p.value);
  }

  std::vector<std::string> notes;
  if (!missing_head.empty())
    notes.push_back("newly initialised, because " + source + " does not have them: " + missing_head);
  std::string unused;
  std::size_t unused_count = 0;
  for (const tensor_view& t : file.tensors()) {
    if (used.contains(t.name) || t.name.ends_with("position_ids")) continue;
    if (++unused_count <= 4) unused += (unused.empty() ? "" : ", ") + t.name;
  }
  if (unused_count > 4) unused += " and " + std::to_string(unused_count - 4) + " more";
  if (unused_count != 0) notes.push_back("not used for question answering: " + unused);
  return notes;
}

std::vector<tensor_view> parameter_table::views() const {
  std::vector<tensor_view> result;
  for (auto p = table_.rbegin(); p != table_.rend(); ++p)
    result.push_back(view_of(p->name, p->shape, std::span<const float>(p->value)));
  return result;
}

void parameter_table::clear_gradients() { std::ranges::fill(gradients(), 0.0f); }

}  // namespace bert_qa
