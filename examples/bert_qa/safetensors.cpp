#include "safetensors.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <einkorn/types.hpp>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "files.hpp"
#include "input_error.hpp"
#include "json_input.hpp"

namespace bert_qa {
namespace {

using nlohmann::json;

constexpr std::uint64_t largest_header = 100'000'000;  // the format's own limit
constexpr std::size_t largest_rank = 32;
constexpr std::uint64_t largest_count = std::numeric_limits<std::int64_t>::max();

struct header_entry {
  std::string name, dtype;
  std::vector<std::uint64_t> shape, offsets;
  bool has_shape = false, has_offsets = false;
};

/// Reads the header event by event. A document tree would let a hostile header of 100 MB take gigabytes.
class header_reader final : public nlohmann::json_sax<json> {
 public:
  header_reader(const std::string& source, tensor_metadata& metadata)
      : source_(source), metadata_(metadata) {}

  std::vector<header_entry> entries;

  bool null() override { return unexpected("null"); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) override { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) override { return unexpected(text.substr(0, 60)); }
  bool binary(json::binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(std::uint64_t value) override {
    if (place_ != place::shape && place_ != place::offsets) return unexpected(std::to_string(value));
    auto& numbers = place_ == place::shape ? entry_.shape : entry_.offsets;
    if (numbers.size() == largest_rank) {
      throw input_error(
          source_,
          "at most " + std::to_string(largest_rank) + " numbers as " + field_ + " of " + quote(entry_.name),
          "more");
    }
    numbers.push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (place_ == place::metadata) {
      metadata_[field_] = value;
    } else if (place_ == place::entry && field_ == "dtype") {
      entry_.dtype = value;
    } else {
      return unexpected(quote(value));
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (place_ == place::before) {
      place_ = place::top;
    } else if (place_ == place::top) {
      place_ = entry_.name == "__metadata__" ? place::metadata : place::entry;
      fields_.clear();
      field_.clear();
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(std::string& name) override {
    auto& names = place_ == place::top ? names_ : fields_;
    if (!names.insert(name).second) {
      throw input_error(source_, "every name once in the header", quote(name) + " twice");
    }
    if (place_ == place::top) {
      entry_ = {};
      entry_.name = name;
    } else {
      field_ = name;
      if (place_ == place::entry && name != "dtype" && name != "shape" && name != "data_offsets") {
        throw input_error(source_, "dtype, shape and data_offsets in " + quote(entry_.name), quote(name));
      }
    }
    return true;
  }

  bool end_object() override {
    if (place_ == place::entry) {
      if (entry_.dtype.empty() || !entry_.has_shape || !entry_.has_offsets) {
        throw input_error(source_, "dtype, shape and data_offsets in " + quote(entry_.name),
                          "an entry without");
      }
      entries.push_back(std::move(entry_));
    }
    entry_ = {};
    place_ = place_ == place::top ? place::after : place::top;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != place::entry || (field_ != "shape" && field_ != "data_offsets"))
      return unexpected("an array");
    (field_ == "shape" ? entry_.has_shape : entry_.has_offsets) = true;
    place_ = field_ == "shape" ? place::shape : place::offsets;
    return true;
  }

  bool end_array() override {
    place_ = place::entry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw input_error(source_, "a JSON header", "something else at byte " + std::to_string(8 + position));
  }

 private:
  enum class place { before, top, metadata, entry, shape, offsets, after };

  bool unexpected(const std::string& found) const {
    std::string expected = "an object of tensors as the header";
    if (place_ == place::top) expected = "an object for " + quote(entry_.name);
    if (place_ == place::metadata) expected = "a string for " + quote(field_) + " in __metadata__";
    if (place_ == place::entry) {
      expected = (field_ == "dtype" ? "a string" : "an array of sizes") + (" as " + field_) + " of " +
                 quote(entry_.name);
    }
    if (place_ == place::shape || place_ == place::offsets) {
      expected = "whole numbers >= 0 as " + field_ + " of " + quote(entry_.name);
    }
    throw input_error(source_, expected, found);
  }

  const std::string& source_;
  tensor_metadata& metadata_;
  place place_ = place::before;
  header_entry entry_;
  std::string field_;
  std::set<std::string> names_, fields_;
};

std::uint64_t read_u64(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

/// The product of the shape times the size of an element; false where it does not fit.
bool byte_count(std::span<const std::uint64_t> shape, std::uint64_t element, std::uint64_t& bytes) {
  bytes = element;
  for (const std::uint64_t extent : shape) {
    if (extent > largest_count || (extent != 0 && bytes > largest_count / extent)) return false;
    bytes *= extent;
  }
  return true;
}

template <class Extent>
std::string shape_text(std::span<const Extent> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i == 8) return text + ", ...]";
    text += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::uint16_t read_u16(const std::byte* bytes) {
  std::uint16_t value;
  std::memcpy(&value, bytes, 2);
  return value;
}

template <class T>
tensor_view make_view(std::string name, std::string_view dtype, std::vector<std::int64_t> shape,
                      std::span<const T> values) {
  return {std::move(name), std::string(dtype), std::move(shape), std::as_bytes(values)};
}

}  // namespace

static_assert(std::endian::native == std::endian::little, "the format is little-endian, and so is x86");

std::int64_t tensor_view::count() const {
  std::int64_t product = 1;
  for (const std::int64_t extent : shape) product *= extent;
  return product;
}

std::size_t dtype_size(std::string_view dtype) {
  struct entry {
    std::string_view name;
    std::size_t size;
  };
  static constexpr entry table[] = {{"F64", 8}, {"I64", 8}, {"U64", 8},  {"F32", 4},     {"I32", 4},
                                    {"U32", 4}, {"F16", 2}, {"BF16", 2}, {"I16", 2},     {"U16", 2},
                                    {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};
  for (const entry& known : table) {
    if (known.name == dtype) return known.size;
  }
  return 0;
}

safetensors::safetensors(std::span<const std::byte> bytes, std::string source) : source_(std::move(source)) {
  if (bytes.size() < 8) {
    throw input_error(source_, "a safetensors file of 8 bytes or more", std::to_string(bytes.size()));
  }
  const std::uint64_t header_size = read_u64(bytes);
  if (header_size > largest_header) {
    throw input_error(source_, "a safetensors header of at most " + std::to_string(largest_header) + " bytes",
                      "a length of " + std::to_string(header_size));
  }
  if (header_size > bytes.size() - 8) {
    throw input_error(source_, "a header of " + std::to_string(header_size) + " bytes",
                      "a file that ends after " + std::to_string(bytes.size() - 8) + " of them");
  }
  const char* text = reinterpret_cast<const char*>(bytes.data()) + 8;
  const auto data = bytes.subspan(8 + static_cast<std::size_t>(header_size));
  if (header_size == 0 || *text != '{')
    throw input_error(source_, "a JSON header that begins with {", "none");

  header_reader reader(source_, metadata_);
  json::sax_parse(text, text + header_size, &reader);

  auto& entries = reader.entries;
  for (const header_entry& entry : entries) {
    const std::string name = quote(entry.name);
    const std::size_t element = dtype_size(entry.dtype);
    if (element == 0) throw input_error(source_, "a known dtype for " + name, quote(entry.dtype));
    if (entry.offsets.size() != 2) {
      throw input_error(source_, "two data_offsets for " + name, std::to_string(entry.offsets.size()));
    }
    const std::uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    if (begin > end || end > data.size()) {
      throw input_error(source_,
                        "data_offsets of " + name + " in order and within " + std::to_string(data.size()) +
                            " bytes of data",
                        std::to_string(begin) + " to " + std::to_string(end));
    }
    const std::string shape = shape_text(std::span<const std::uint64_t>(entry.shape));
    std::uint64_t needed = 0;
    if (!byte_count(entry.shape, element, needed)) {
      throw input_error(source_, "a shape of " + name + " whose size fits 63 bits", shape);
    }
    if (needed != end - begin) {
      throw input_error(source_,
                        std::to_string(needed) + " bytes for " + name + ", " + entry.dtype + " " + shape,
                        std::to_string(end - begin));
    }
    if (begin % element != 0) {
      throw input_error(source_,
                        "data of " + name + " at a multiple of " + std::to_string(element) + " bytes",
                        "offset " + std::to_string(begin));
    }
  }
  std::sort(entries.begin(), entries.end(), [](const header_entry& a, const header_entry& b) {
    return std::tie(a.offsets[0], a.offsets[1], a.name) < std::tie(b.offsets[0], b.offsets[1], b.name);
  });
  std::uint64_t covered = 0;
  for (header_entry& entry : entries) {
    if (entry.offsets[0] != covered) {
      throw input_error(
          source_, "data of " + quote(entry.name) + " to begin at byte " + std::to_string(covered),
          (entry.offsets[0] < covered ? "an overlap: " : "a hole: ") + std::to_string(entry.offsets[0]));
    }
    covered = entry.offsets[1];
    const auto begin = static_cast<std::size_t>(entry.offsets[0]);
    index_.emplace(entry.name, tensors_.size());
    tensors_.push_back({std::move(entry.name),
                        std::move(entry.dtype),
                        {entry.shape.begin(), entry.shape.end()},
                        data.subspan(begin, static_cast<std::size_t>(covered) - begin)});
  }
  if (covered != data.size()) {
    throw input_error(source_, std::to_string(covered) + " bytes of data, as the header says",
                      std::to_string(data.size()));
  }
}

const tensor_view* safetensors::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

const tensor_view& safetensors::at(std::string_view name) const {
  if (const tensor_view* tensor = find(name)) return *tensor;
  throw input_error(source_, "a tensor " + quote(name), "none among " + std::to_string(tensors_.size()));
}

void safetensors::require_f32(std::string_view name, std::span<const std::int64_t> shape) const {
  const tensor_view& tensor = at(name);
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
    throw input_error(source_, quote(name) + " of shape " + shape_text(shape),
                      shape_text(std::span<const std::int64_t>(tensor.shape)));
  }
  if (tensor.dtype != "F32" && tensor.dtype != "BF16" && tensor.dtype != "F16")
    throw input_error(source_, quote(name) + " as F32, BF16 or F16", tensor.dtype);
}

void safetensors::read_f32(std::string_view name, std::span<const std::int64_t> shape,
                           std::span<float> values) const {
  require_f32(name, shape);
  const tensor_view& tensor = at(name);
  if (static_cast<std::int64_t>(values.size()) != tensor.count()) {
    throw std::logic_error("read_f32: " + std::to_string(values.size()) + " values for " +
                           std::to_string(tensor.count()));
  }
  const std::byte* bytes = tensor.bytes.data();
  if (tensor.dtype == "F32") {
    if (!values.empty()) std::memcpy(values.data(), bytes, tensor.bytes.size());
  } else if (tensor.dtype == "BF16") {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = einkorn::bf16::from_bits(read_u16(bytes + 2 * i));
  } else {
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = einkorn::fp16::from_bits(read_u16(bytes + 2 * i));
  }
}

void write_safetensors(const std::filesystem::path& path, std::span<const tensor_view> tensors,
                       const tensor_metadata& metadata) {
  std::vector<const tensor_view*> order;
  for (const tensor_view& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const tensor_view* a, const tensor_view* b) {
    return dtype_size(a->dtype) > dtype_size(b->dtype);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  std::size_t offset = 0;
  for (const tensor_view* tensor : order) {
    if (static_cast<std::size_t>(tensor->count()) * dtype_size(tensor->dtype) != tensor->bytes.size() ||
        dtype_size(tensor->dtype) == 0 || tensor->name == "__metadata__" ||
        !names.insert(tensor->name).second) {
      throw std::logic_error("write_safetensors: tensor " + tensor->name + " of type " + tensor->dtype +
                             " is not consistent or comes twice");
    }
    header[tensor->name] = {{"dtype", tensor->dtype},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + tensor->bytes.size()}}};
    offset += tensor->bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data is aligned in the file, too

  std::byte size[8];
  for (unsigned i = 0; i < 8; ++i) size[i] = static_cast<std::byte>(text.size() >> (8 * i) & 255u);
  atomic_file file(path);
  file.write(size);
  file.write(text);
  for (const tensor_view* tensor : order) file.write(tensor->bytes);
  file.commit();
}

tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const float> values) {
  return make_view(std::move(name), "F32", std::move(shape), values);
}
tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const std::int64_t> values) {
  return make_view(std::move(name), "I64", std::move(shape), values);
}
tensor_view view_of(std::string name, std::vector<std::int64_t> shape, std::span<const std::uint8_t> values) {
  return make_view(std::move(name), "U8", std::move(shape), values);
}

}  // namespace bert_qa
