#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace bert_qa {

/// What is read whole is no longer than this: something endless, or a file that is all holes, would take the
/// memory.
inline constexpr std::size_t most_bytes = std::size_t{1} << 31;

/// Throws input_error unless `path` can be read as a file of at most `most` bytes. `what` says what it should
/// have been ("a vocabulary").
std::string read_file(const std::filesystem::path& path, std::string_view what = "a file",
                      std::size_t most = most_bytes);

/// A file's bytes, read-only. Regular files are mapped, so that weights are not held twice; pipes are read.
class mapped_file {
 public:
  explicit mapped_file(const std::filesystem::path& path, std::string_view what = "a file");
  ~mapped_file();
  mapped_file(mapped_file&& other) noexcept;
  mapped_file& operator=(mapped_file&& other) noexcept;

  std::span<const std::byte> bytes() const {
    return mapping_ ? std::span{mapping_, size_} : std::as_bytes(std::span{contents_});
  }

 private:
  const std::byte* mapping_ = nullptr;
  std::size_t size_ = 0;
  std::string contents_;
};

/// The one way in which files are written: into `.NAME.partial` beside the target, synced, renamed over it. A
/// crash at any moment leaves the old file or the new one. Without commit() the destructor removes what was
/// written. A second writer of the same file, also in another process, is an error, not a mixture. A
/// `.partial` of a run that was killed is overwritten by the next.
class atomic_file {
 public:
  explicit atomic_file(const std::filesystem::path& path);
  ~atomic_file();
  atomic_file(const atomic_file&) = delete;
  atomic_file& operator=(const atomic_file&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span{text})); }
  void commit();

 private:
  std::filesystem::path path_, partial_;
  int descriptor_ = -1;
};

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes);
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

/// The same for a folder of files that belong together: fill path(), then commit() syncs everything in it and
/// puts it in the place of the old folder, if there is one, in one step.
class atomic_folder {
 public:
  explicit atomic_folder(const std::filesystem::path& path);
  ~atomic_folder();
  atomic_folder(const atomic_folder&) = delete;
  atomic_folder& operator=(const atomic_folder&) = delete;

  const std::filesystem::path& path() const { return partial_; }  ///< where to write
  void commit();
  /// Instead of commit(): the old folder goes, in one step. What is left of it when the process is killed
  /// then is a `.partial`.
  void remove();

 private:
  std::filesystem::path final_, partial_;
  int lock_ = -1;
};

/// Removes what killed writers of this folder left beside it; false where one is at work.
bool remove_unfinished(const std::filesystem::path& path);

/// Makes the folder and those above it, and throws input_error now, not after hours of training, where a file
/// could not be written into it.
void make_writable_folder(const std::filesystem::path& path);

}  // namespace bert_qa
