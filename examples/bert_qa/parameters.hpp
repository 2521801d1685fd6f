/// The parameters of BertForQuestionAnswering and everything that training keeps beside them: one table over
/// four arenas (value, gradient, m, v), one allocation each.
#pragma once

#include <cstdint>
#include <einkorn/einkorn.hpp>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "memory.hpp"
#include "model_folder.hpp"
#include "safetensors.hpp"

namespace bert_qa {

using einkorn::index;

/// One tensor, under the name that Transformers gives it. Everything is row-major; the spans point into the
/// arenas, at the same offset in each.
struct parameter {
  std::string name;
  std::vector<std::int64_t> shape;
  bool decay = false;  ///< weight decay: matrices and tables; not biases, not layer normalisation
  std::size_t offset = 0, count = 0;
  std::span<float> value, gradient, m, v;

  einkorn::matrix_view<float> matrix() const { return view(value); }
  einkorn::matrix_view<float> gradient_matrix() const { return view(gradient); }

 private:
  einkorn::matrix_view<float> view(std::span<float> data) const {
    const index rows = shape.size() == 2 ? shape[0] : 1;
    return {data.data(), rows, shape.back()};
  }
};

/// A run of neighbours in the arenas whose gradients backward finishes together: [first, first + count) of
/// the table, [offset, offset + length) of the gradient arena.
struct parameter_group {
  std::size_t first = 0, count = 0, offset = 0, length = 0;
};

/// The order of the table, and of every arena, is the order in which backward finishes the gradients: what
/// is ready is always a prefix of the gradient arena, so that it can be sent away while the rest is computed.
class parameter_table {
 public:
  enum class purpose { inference, training };  ///< inference has neither gradients nor m nor v

  parameter_table(const bert_config& config, einkorn::dtype narrow_type, purpose use = purpose::training);
  parameter_table(const parameter_table&) = delete;
  parameter_table& operator=(const parameter_table&) = delete;

  std::span<parameter> all() { return table_; }
  std::span<const parameter> all() const { return table_; }
  const parameter& at(std::string_view name) const;  ///< std::out_of_range where there is none
  std::size_t index_of(std::string_view name) const;
  std::span<const parameter_group> groups() const { return groups_; }

  einkorn::dtype narrow_type() const { return narrow_type_; }  ///< of what matrix products read
  std::span<float> gradients() const { return gradient_.as<float>(); }
  std::size_t count() const { return elements_; }  ///< numbers in all parameters
  std::vector<memory_use> memory() const;

  /// N(0, range^2) for matrices and tables (the padding row zero), 1 and 0 for layer normalisation, 0 for
  /// biases. Every number depends on seed, name and place only, on any machine.
  void initialise(std::uint64_t seed);

  /// Values from a Hugging Face file; names with or without "bert.". Of the question-answering head, what the
  /// file lacks is initialised; other parameters that it lacks are an input_error. Returns what there is to
  /// say: what was initialised, what was not used. Changes nothing if it throws.
  std::vector<std::string> load(const safetensors& file, const std::string& source, std::uint64_t seed);
  /// Throws what load would throw, before there is a table: sizes in a config.json that are not the file's
  /// could ask for more memory than there is.
  static void check(const bert_config& config, const safetensors& file, const std::string& source);

  /// What model.safetensors holds.
  std::vector<tensor_view> views() const;

  void clear_gradients();

 private:
  explicit parameter_table(const bert_config& config);  ///< names and shapes, no memory
  /// What the file has for each parameter; null for a part of the head that it lacks.
  std::vector<const tensor_view*> found_in(const safetensors& file, const std::string& source) const;
  void initialise(parameter& p, std::uint64_t seed);
  void add(std::string name, std::vector<std::int64_t> shape, bool joined = false);
  void close_group();

  bert_config config_;
  einkorn::dtype narrow_type_ = einkorn::dtype::f32;
  std::vector<parameter> table_;
  std::vector<parameter_group> groups_;
  std::size_t elements_ = 0, length_ = 0;
  memory_block value_, gradient_, m_, v_;
};

/// The number `element` of the stream `name`, distributed N(0, 1): polar method over Philox4x32-10.
float normal(std::uint64_t seed, std::string_view name, std::uint64_t element);

/// Philox4x32-10 (Salmon et al., SC'11), one block.
struct philox_block {
  std::uint32_t word[4];
};
philox_block philox4x32(std::uint64_t key, philox_block counter);

}  // namespace bert_qa
