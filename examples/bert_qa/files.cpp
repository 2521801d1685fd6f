#include "files.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <limits>
#include <system_error>
#include <utility>

#include "input_error.hpp"

namespace bert_qa {
namespace fs = std::filesystem;
namespace {

std::string reason(int error) {
  std::string text = "\"";
  text += std::generic_category().message(error);
  text += '"';
  return text;
}

[[noreturn]] void cannot_write(const fs::path& path, int error) {
  throw input_error(path.string(), "a place that can be written", reason(error));
}

class descriptor {
 public:
  explicit descriptor(int number) : number_(number) {}
  ~descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  descriptor(const descriptor&) = delete;
  descriptor& operator=(const descriptor&) = delete;
  operator int() const { return number_; }

 private:
  int number_;
};

struct stat open_for_reading(const fs::path& path, std::string_view what, int& number) {
  const std::string expected(what);
  number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) {
    throw input_error(path.string(), expected, errno == ENOENT ? "no such file" : reason(errno));
  }
  struct stat status {};
  if (::fstat(number, &status) != 0 || S_ISDIR(status.st_mode)) {
    ::close(number);
    throw input_error(path.string(), expected, "a folder");
  }
  return status;
}

std::string read_all(int number, const fs::path& path, std::string_view what, std::size_t size_hint,
                     std::size_t most) {
  const auto check = [&](std::size_t size) {
    if (size > most)
      throw input_error(path.string(), std::string(what) + ", at most " + std::to_string(most >> 20) + " MiB",
                        "more");
  };
  check(size_hint);
  std::string contents;
  std::size_t used = 0;
  // One byte more than the hint: the read that meets the end of a regular file needs no second allocation.
  contents.resize(size_hint + 1);
  for (;;) {
    const ssize_t count = ::read(number, contents.data() + used, contents.size() - used);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw input_error(path.string(), std::string(what), reason(errno));
    if (count == 0) break;
    used += static_cast<std::size_t>(count);
    check(used);
    if (used == contents.size()) contents.resize(used < most / 2 ? 2 * used : most + 1);
  }
  contents.resize(used);
  return contents;
}

// Without it a power cut can take back a rename that the program has already reported as done.
void sync_folder(const fs::path& folder) {
  const descriptor number(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (number < 0 || (::fsync(number) != 0 && errno != EINVAL)) cannot_write(folder, errno);
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.is_symlink()) continue;
    if (entry.is_directory()) {
      sync_tree(entry.path());
      continue;
    }
    const descriptor number(::open(entry.path().c_str(), O_RDONLY | O_CLOEXEC));
    if (number < 0 || ::fsync(number) != 0) cannot_write(entry.path(), errno);
  }
  sync_folder(folder);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path sibling(const fs::path& path, const char* ending) {
  std::string name = ".";
  name += path.filename().string();
  name += ending;
  return folder_of(path) / name;
}

/// Opens and locks; returns -1 where another process holds the lock. The lock goes when the descriptor does,
/// so a killed run never blocks the next one.
int open_locked(const fs::path& path) {
  for (;;) {
    const int number = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (number < 0) cannot_write(path, errno);
    // Some network file systems have no locks: then the name alone must do.
    if (::flock(number, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(number);
      return -1;
    }
    // Its owner may have renamed or removed the file between our open and our lock: then it is not ours.
    struct stat ours {
    }, named{};
    if (::fstat(number, &ours) == 0 && ::stat(path.c_str(), &named) == 0 && ours.st_ino == named.st_ino &&
        ours.st_dev == named.st_dev) {
      return number;
    }
    ::close(number);
  }
}

[[noreturn]] void someone_else_writes(const fs::path& path) {
  throw input_error(path.string(), "to be its only writer", "another one at work");
}

}  // namespace

std::string read_file(const fs::path& path, std::string_view what, std::size_t most) {
  int number = -1;
  const auto status = open_for_reading(path, what, number);
  const descriptor closes(number);
  return read_all(number, path, what,
                  S_ISREG(status.st_mode) ? static_cast<std::size_t>(status.st_size) : 65536, most);
}

mapped_file::mapped_file(const fs::path& path, std::string_view what) {
  int number = -1;
  const auto status = open_for_reading(path, what, number);
  const descriptor closes(number);
  if (S_ISREG(status.st_mode) && status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, number, 0);
    if (address != MAP_FAILED) {
      mapping_ = static_cast<const std::byte*>(address);
      return;
    }
  }
  contents_ = read_all(number, path, what, 65536, std::numeric_limits<std::size_t>::max());
}

mapped_file::~mapped_file() {
  if (mapping_) ::munmap(const_cast<std::byte*>(mapping_), size_);
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      contents_(std::move(other.contents_)) {}

mapped_file& mapped_file::operator=(mapped_file&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(size_, other.size_);
  std::swap(contents_, other.contents_);
  return *this;
}

atomic_file::atomic_file(const fs::path& path) : path_(path), partial_(sibling(path, ".partial")) {
  std::error_code ignored;
  if (!path.has_filename() || fs::is_directory(path, ignored)) {
    throw input_error(path.string(), "a file that can be written", "a folder");
  }
  descriptor_ = open_locked(partial_);
  if (descriptor_ < 0) someone_else_writes(path_);
  if (::ftruncate(descriptor_, 0) != 0) cannot_write(path_, errno);
}

atomic_file::~atomic_file() {
  if (descriptor_ < 0) return;
  ::unlink(partial_.c_str());  // before the lock goes
  ::close(descriptor_);
}

void atomic_file::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(descriptor_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) cannot_write(path_, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(count));
  }
}

void atomic_file::commit() {
  if (::fsync(descriptor_) != 0) cannot_write(path_, errno);
  if (::rename(partial_.c_str(), path_.c_str()) != 0) cannot_write(path_, errno);
  ::close(std::exchange(descriptor_, -1));
  sync_folder(folder_of(path_));
}

void write_file_atomically(const fs::path& path, std::span<const std::byte> bytes) {
  atomic_file file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const fs::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span{text}));
}

atomic_folder::atomic_folder(const fs::path& path)
    : final_(without_trailing_slash(path)), partial_(sibling(final_, ".partial")) {
  std::error_code error;
  if (fs::exists(final_, error) && !fs::is_directory(final_, error)) {
    throw input_error(final_.string(), "a folder", "a file");
  }
  lock_ = open_locked(sibling(final_, ".lock"));
  if (lock_ < 0) someone_else_writes(final_);
  fs::remove_all(partial_, error);  // of a run that was killed
  if (::mkdir(partial_.c_str(), 0777) != 0) {
    const int why = errno;
    ::unlink(sibling(final_, ".lock").c_str());
    ::close(lock_);
    cannot_write(final_, why);
  }
}

atomic_folder::~atomic_folder() {
  std::error_code ignored;
  // After a commit this is the folder that was replaced, before it the one that was not finished.
  fs::remove_all(partial_, ignored);
  ::unlink(sibling(final_, ".lock").c_str());
  ::close(lock_);
}

void atomic_folder::commit() {
  sync_tree(partial_);
  // EXCHANGE swaps the two names in one step, so there is no moment without a complete folder.
  if (::renameat2(AT_FDCWD, partial_.c_str(), AT_FDCWD, final_.c_str(), RENAME_EXCHANGE) != 0) {
    if (errno == EINVAL || errno == ENOSYS) {  // a file system that cannot: the old one steps aside first
      const fs::path old = sibling(final_, ".old");
      std::error_code ignored;
      fs::remove_all(old, ignored);
      if (::rename(final_.c_str(), old.c_str()) != 0 && errno != ENOENT) cannot_write(final_, errno);
      if (::rename(partial_.c_str(), final_.c_str()) != 0) cannot_write(final_, errno);
      fs::remove_all(old, ignored);
    } else if (errno != ENOENT || ::rename(partial_.c_str(), final_.c_str()) != 0) {
      cannot_write(final_, errno);
    }
  }
  sync_folder(folder_of(final_));
}

void atomic_folder::remove() {
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
  if (::rename(final_.c_str(), partial_.c_str()) != 0) cannot_write(final_, errno);
  sync_folder(folder_of(final_));
}

bool remove_unfinished(const fs::path& path) {
  const fs::path folder = without_trailing_slash(path), lock = sibling(folder, ".lock");
  const descriptor locked(open_locked(lock));
  if (locked < 0) return false;
  std::error_code ignored;
  fs::remove_all(sibling(folder, ".partial"), ignored);
  ::unlink(lock.c_str());  // before the lock goes
  return true;
}

void make_writable_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_directory(path, ignored)) {
    throw input_error(path.string(), "a folder", "a file");
  }
  if (error) cannot_write(path, error.value());
  const fs::path probe = path / ".write-test";
  const descriptor number(::open(probe.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  if (number < 0) throw input_error(path.string(), "a folder that can be written", reason(errno));
  ::unlink(probe.c_str());
}

}  // namespace bert_qa
