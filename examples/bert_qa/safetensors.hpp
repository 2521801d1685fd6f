#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bert_qa {

/// One named tensor: row-major, little-endian, in memory that belongs to someone else.
struct tensor_view {
  std::string name;
  std::string dtype;  ///< as the format spells it: F32, BF16, F16, I64, U8, ...
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;  ///< need not be aligned

  std::int64_t count() const;  ///< the product of the shape; 1 for a scalar
};

/// Bytes of one element; 0 for a type that the format does not have (or that has less than a byte).
std::size_t dtype_size(std::string_view dtype);

using tensor_metadata = std::map<std::string, std::string>;

/// The tensors of a safetensors file: u64 length of the header, the header as JSON, the data. The views point
/// into the bytes that were parsed.
///
/// Stricter than the format where leniency has no honest use: data has no holes and no overlaps, begins where
/// its type's size divides the offset, and no name comes twice. Throws input_error, one line that begins with
/// the source's name; memory is bounded by a few times the header, whatever the header says.
class safetensors {
 public:
  safetensors(std::span<const std::byte> bytes, std::string source);

  const std::vector<tensor_view>& tensors() const { return tensors_; }  ///< in the order of their data
  const tensor_metadata& metadata() const { return metadata_; }
  const tensor_view* find(std::string_view name) const;
  const tensor_view& at(std::string_view name) const;  ///< input_error where there is none

  /// Throws input_error unless read_f32 could read tensor `name`: it must be F32, BF16 or F16, and its shape
  /// `shape`, exactly.
  void require_f32(std::string_view name, std::span<const std::int64_t> shape) const;
  /// The values of tensor `name` as f32.
  void read_f32(std::string_view name, std::span<const std::int64_t> shape, std::span<float> values) const;

 private:
  std::string source_;
  std::vector<tensor_view> tensors_;
  std::map<std::string, std::size_t, std::less<>> index_;
  tensor_metadata metadata_;
};

/// Writes through atomic_file, tensor by tensor: nothing is copied. The data is ordered by the element's
/// size, largest first, so that every tensor is aligned; equal sizes keep their order. Transformers asks for
/// {"format": "pt"}.
void write_safetensors(const std::filesystem::path& path, std::span<const tensor_view> tensors,
                       const tensor_metadata& metadata = {{"format", "pt"}});

/// A view of an array of numbers, for writing.
tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const float> values);
tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const std::int64_t> values);
tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const std::uint8_t> values);

}  // namespace bert_qa
