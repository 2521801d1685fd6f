#include "files.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <set>

#include "input_error.hpp"
#include "scratch_folder.hpp"

using namespace bert_qa;
namespace fs = std::filesystem;

namespace {

std::string text_of(const fs::path& path) {  // not through the code under test
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Runs `action` in a child; the status that waitpid gives.
template <class Action>
int in_a_child(Action action) {
  const pid_t child = ::fork();
  if (child == 0) {
    action();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

bool killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

}  // namespace

TEST_CASE("a file is read whole, by copy and by map") {
  const scratch_folder folder;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4096}, std::size_t{300'001}}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7);
    std::ofstream(folder / "data", std::ios::binary) << content;
    CHECK(read_file(folder / "data") == content);
    mapped_file first(folder / "data");
    CHECK(as_text(first.bytes()) == content);
    mapped_file second(std::move(first));
    CHECK(as_text(second.bytes()) == content);
    CHECK(first.bytes().empty());
    first = std::move(second);
    CHECK(as_text(first.bytes()) == content);
  }
}

TEST_CASE("what is read whole has a limit") {
  const scratch_folder folder;
  const auto refusal = [](const fs::path& path) {
    return message_of<input_error>([&] { read_file(path, "a vocabulary", std::size_t{1} << 20); });
  };
  std::ofstream(folder / "holes") << "x";
  fs::resize_file(folder / "holes", std::size_t{1} << 20);
  CHECK(refusal(folder / "holes") == "");
  fs::resize_file(folder / "holes", std::uintmax_t{1} << 33);
  CHECK(refusal(folder / "holes") ==
        (folder / "holes").string() + ": expected a vocabulary, at most 1 MiB, found more");
  CHECK(refusal("/dev/zero") == "/dev/zero: expected a vocabulary, at most 1 MiB, found more");
  // 8 GiB are more than any call lets in.
  CHECK(contains(message_of<input_error>([&] { read_file(folder / "holes"); }),
                 "at most 2048 MiB, found more"));
  CHECK(mapped_file(folder / "holes").bytes().size() == std::size_t{1} << 33);
}

TEST_CASE("a pipe is read to its end") {
  const scratch_folder folder;
  const std::string pipe = folder / "pipe", content(200'000, 'x');
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  for (const bool map : {false, true}) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::ofstream(pipe) << content;
      ::_exit(0);
    }
    CHECK((map ? as_text(mapped_file(pipe).bytes()) : read_file(pipe)) == content);
    ::waitpid(child, nullptr, 0);
  }
}

TEST_CASE("what cannot be read is named") {
  const scratch_folder folder;
  std::ofstream(folder / "file") << "x";
  const std::string at = folder.path.string();
  const auto copied = [&](const char* name) {
    return message_of<input_error>([&] { read_file(folder / name, "a vocabulary"); });
  };
  const auto mapped = [&](const char* name) {
    return message_of<input_error>([&] { mapped_file file(folder / name, "a vocabulary"); });
  };
  CHECK(copied("none") == at + "/none: expected a vocabulary, found no such file");
  CHECK(mapped("none") == at + "/none: expected a vocabulary, found no such file");
  CHECK(copied("") == at + "/: expected a vocabulary, found a folder");
  CHECK(mapped("") == at + "/: expected a vocabulary, found a folder");
  CHECK(copied("file/below") == at + "/file/below: expected a vocabulary, found \"Not a directory\"");
  CHECK(mapped("file/below") == at + "/file/below: expected a vocabulary, found \"Not a directory\"");
}

TEST_CASE("a file is replaced only by commit") {
  const scratch_folder folder;
  const fs::path path = folder / "file";
  write_file_atomically(path, "old");
  CHECK(text_of(path) == "old");
  {
    atomic_file file(path);
    file.write("new");
    CHECK(text_of(path) == "old");
  }
  CHECK(text_of(path) == "old");
  CHECK(names_in(folder.path) == std::set<std::string>{"file"});
  {
    atomic_file file(path);
    file.write("ne");
    file.write("w");
    file.commit();
    CHECK(text_of(path) == "new");
  }
  CHECK(text_of(path) == "new");
  CHECK(names_in(folder.path) == std::set<std::string>{"file"});
}

TEST_CASE("replacing a symbolic link leaves what it points to") {
  const scratch_folder folder;
  std::ofstream(folder / "blob") << "shared";
  fs::create_symlink("blob", folder / "link");
  write_file_atomically(folder / "link", "ours");
  CHECK(text_of(folder / "blob") == "shared");
  CHECK(text_of(folder / "link") == "ours");
  CHECK(!fs::is_symlink(folder / "link"));
}

TEST_CASE("the umask decides who may read what is written") {
  const scratch_folder folder;
  const mode_t before = ::umask(027);
  write_file_atomically(folder / "file", "x");
  ::umask(before);
  CHECK((fs::status(folder / "file").permissions() & fs::perms::mask) == static_cast<fs::perms>(0640));
}

TEST_CASE("what cannot be written is named, and nothing is left") {
  const scratch_folder folder;
  std::ofstream(folder / "file") << "x";
  fs::create_directory(folder / "inner");
  const std::string at = folder.path.string();
  const auto file = [&](const char* name) {
    return message_of<input_error>([&] { write_file_atomically(folder / name, "y"); });
  };
  const auto in_folder = [&](const char* name) {
    return message_of<input_error>([&] { atomic_folder inner(folder / name); });
  };
  const auto writable = [&](const char* name) {
    return message_of<input_error>([&] { make_writable_folder(folder / name); });
  };
  CHECK(contains(file("none/file"), "No such file or directory"));
  CHECK(contains(file("file/below"), at + "/file/"));
  CHECK(contains(file("file/below"), "Not a directory"));
  CHECK(file("inner") == at + "/inner: expected a file that can be written, found a folder");
  CHECK(contains(file("inner/"), "found a folder"));
  CHECK(in_folder("file") == at + "/file: expected a folder, found a file");
  CHECK(contains(in_folder("file/below"), "Not a directory"));
  CHECK(contains(in_folder("none/below"), "No such file or directory"));
  CHECK(writable("file") == at + "/file: expected a folder, found a file");
  CHECK(contains(writable("file/below"), "Not a directory"));
  CHECK(writable("inner") == "");
  CHECK(writable("a/b/c") == "");
  CHECK(fs::is_directory(folder / "a/b/c"));
  // Root may write where the permissions say no; the kernel's own file systems refuse root, too.
  const std::string refused = message_of<input_error>([&] { make_writable_folder("/proc/self"); });
  CHECK(contains(refused, "/proc/self: expected a folder that can be written, found \""));
  CHECK(contains(message_of<input_error>([&] { write_file_atomically("/proc/self/file", "y"); }),
                 "/proc/self"));
  CHECK(names_in(folder.path) == std::set<std::string>{"file", "inner", "a"});
  CHECK(names_in(folder / "inner").empty());
  CHECK(names_in(folder / "a/b/c").empty());
}

TEST_CASE("a user without permission is told so") {
  if (::geteuid() != 0) {  // as root we become nobody in a child; otherwise the permissions bind us as we are
    MESSAGE("not root: the test runs as the user");
  }
  const scratch_folder folder;
  fs::create_directory(folder / "locked");
  fs::permissions(folder.path, static_cast<fs::perms>(0755));
  fs::permissions(folder / "locked", static_cast<fs::perms>(0555));
  const int status = in_a_child([&] {
    if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(3);
    const auto text = message_of<input_error>([&] { make_writable_folder(folder / "locked"); });
    const auto other = message_of<input_error>([&] { write_file_atomically(folder / "locked" / "f", "y"); });
    ::_exit(contains(text, "Permission denied") && contains(other, "Permission denied") ? 0 : 1);
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("two writers of one file or folder: the second is refused, the first goes on") {
  const scratch_folder folder;
  atomic_file first(folder / "file");
  first.write("first");
  atomic_folder one(folder / "folder");
  const int status = in_a_child([&] {
    const auto text = message_of<input_error>([&] { atomic_file second(folder / "file"); });
    const auto other = message_of<input_error>([&] { atomic_folder second(folder / "folder"); });
    ::_exit(contains(text, "its only writer") && contains(other, "its only writer") ? 0 : 1);
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  write_file_atomically(one.path() / "inside", "x");
  one.commit();
  first.commit();
  CHECK(text_of(folder / "file") == "first");
  CHECK(text_of(folder / "folder" / "inside") == "x");
}

TEST_CASE("a folder is replaced in one step, only by commit") {
  const scratch_folder folder;
  const fs::path path = folder / "checkpoint-500";
  for (const fs::path& name : {path, path / ""}) {  // with and without the slash at the end
    {
      atomic_folder fresh(name);
      write_file_atomically(fresh.path() / "weights", "1");
      fs::create_directory(fresh.path() / "inner");
      write_file_atomically(fresh.path() / "inner" / "more", "2");
      CHECK(!fs::exists(path));
      fresh.commit();
    }
    CHECK(names_in(path) == std::set<std::string>{"inner", "weights"});
    CHECK(text_of(path / "inner" / "more") == "2");
    {
      atomic_folder abandoned(name);
      write_file_atomically(abandoned.path() / "weights", "3");
    }
    CHECK(text_of(path / "weights") == "1");
    {
      atomic_folder next(name);
      write_file_atomically(next.path() / "weights", "4");
      next.commit();
      CHECK(text_of(path / "weights") == "4");
    }
    CHECK(names_in(path) == std::set<std::string>{"weights"});
    CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint-500"});
    fs::remove_all(path);
  }
}

TEST_CASE("killed at any moment: the old file or the new one, and the next run is not disturbed") {
  const scratch_folder folder;
  const fs::path path = folder / "file";
  const std::string old(50'000, 'o'), fresh(80'000, 'n');
  for (const int parts : {0, 1, 4}) {
    write_file_atomically(path, old);
    const int status = in_a_child([&] {
      atomic_file file(path);
      for (int part = 0; part < parts; ++part) file.write(std::string_view(fresh).substr(0, 20'000));
      ::raise(SIGKILL);
    });
    CHECK(killed(status));
    CHECK(text_of(path) == old);
    CHECK(names_in(folder.path) == std::set<std::string>{".file.partial", "file"});
    write_file_atomically(path, "x");  // shorter than what the killed run left
    CHECK(text_of(path) == "x");
    CHECK(names_in(folder.path) == std::set<std::string>{"file"});
  }
  // By a signal from outside, at moments that nobody chose: later and later, until writers got through.
  int replaced = 0;
  for (int round = 0; replaced < 20 && round < 200; ++round) {
    write_file_atomically(path, old);
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) write_file_atomically(path, fresh);
    }
    ::usleep(static_cast<useconds_t>(round * 200));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    const std::string found = text_of(path);
    CHECK((found == old || found == fresh));
    replaced += found == fresh;
  }
  CHECK(replaced > 0);
}

TEST_CASE("killed while a folder is written or swapped: all of the old or all of the new") {
  const scratch_folder folder;
  const fs::path path = folder / "checkpoint";
  const auto write = [&](const std::string& content) {
    atomic_folder out(path);
    for (const char* name : {"a", "b", "c"}) write_file_atomically(out.path() / name, content);
    out.commit();
  };
  int replaced = 0;
  for (int round = 0; replaced < 20 && round < 200; ++round) {
    write("old");
    const pid_t child = ::fork();
    if (child == 0) {
      for (;;) write("new");
    }
    ::usleep(static_cast<useconds_t>(round * 500));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    REQUIRE(names_in(path) == std::set<std::string>{"a", "b", "c"});
    const std::string found = text_of(path / "a");
    CHECK((found == "old" || found == "new"));
    for (const char* name : {"b", "c"}) CHECK(text_of(path / name) == found);
    replaced += found == "new";
  }
  CHECK(replaced > 0);
  write("last");
  CHECK(text_of(path / "b") == "last");
  CHECK(names_in(folder.path) == std::set<std::string>{"checkpoint"});
}

TEST_CASE("a full disk is an error that names the file, and the old file stays") {
  const scratch_folder folder;
  const fs::path path = folder / "file";
  write_file_atomically(path, "old");
  const int status = in_a_child([&] {
    // A limit on the file's size stands in for the disk: the write is cut short and the next one fails.
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{10'000, 10'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto text = message_of<input_error>([&] { write_file_atomically(path, std::string(50'000, 'n')); });
    ::_exit(text == path.string() + ": expected a place that can be written, found \"File too large\"" ? 0
                                                                                                       : 1);
  });
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(text_of(path) == "old");
  CHECK(names_in(folder.path) == std::set<std::string>{"file"});
  // And the one device that is always full.
  CHECK(contains(message_of<input_error>([] { make_writable_folder("/dev/full"); }), "found a file"));
}
