// Products of random shapes, types, layouts and epilogues, every way that there is to compute them: plain,
// packed and planned, serial and threaded, in scratch memory that ends at a guard page.
#include "gemm_check.hpp"

namespace test {
using namespace einkorn;
namespace {

/// The library's memory for a scope: each block ends at a guard page.
class guarded_allocations {
 public:
  guarded_allocations() : before_(set_allocator({nullptr, &allocate, &release})) {}
  ~guarded_allocations() { set_allocator(before_); }
  guarded_allocations(const guarded_allocations&) = delete;
  guarded_allocations& operator=(const guarded_allocations&) = delete;

 private:
  static std::size_t page() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }
  static std::size_t used(index bytes) { return (static_cast<std::size_t>(bytes) + 63) / 64 * 64; }
  static std::size_t mapped(index bytes) { return (used(bytes) + page() - 1) / page() * page() + page(); }
  static void* allocate(void*, index bytes) {
    void* const memory =
        mmap(nullptr, mapped(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    char* const end = static_cast<char*>(memory) + mapped(bytes) - page();
    mprotect(end, page(), PROT_NONE);
    return end - used(bytes);
  }
  static void release(void*, void* memory, index bytes) {
    char* const end = static_cast<char*>(memory) + used(bytes);
    munmap(end + page() - mapped(bytes), mapped(bytes));
  }
  allocator before_;
};

/// Few rows and whole vectors of columns more often than others: those have ways of their own.
gemm_shape random_shape(random_numbers& random) {
  gemm_shape s{};
  s.rows = 1 + random.below(random.below(2) == 0 ? 4 : 60);
  s.cols = random.below(2) == 0 ? 8 * (1 + random.below(48)) : 1 + random.below(150);
  s.depth = 1 + random.below(random.below(8) == 0 ? 3000 : 200);
  const index most = quick() ? 100'000 : 1'500'000;
  if (s.rows * s.cols * s.depth > most) s.depth = 1 + most / (s.rows * s.cols);
  return s;
}

template <class A, class B, class C>
void check_random(random_numbers& random) {
  constexpr bool integers = std::is_same_v<C, std::int32_t>;
  const gemm_shape s = random_shape(random);
  const auto padding = [&] { return random.below(2) * random.below(9); };
  const operand<A> a(s.rows, s.depth, random.below(2) == 0, padding(), random);
  const operand<B> b(s.depth, s.cols, random.below(2) == 0, padding(), random);
  const operand<C> before(s.rows, s.cols, false, 0, random);
  guarded_buffer<float> bias(s.cols);
  fill_random(bias, random);
  guarded_matrix<C> c(s.rows, s.cols, padding());
  guarded_matrix<float> pre(s.rows, s.cols, padding());

  epilogue e;
  if (random.below(3) == 0) e.beta = 1;
  if constexpr (!integers) {
    if (random.below(3) == 0) e.bias = bias.data();
    if (random.below(3) == 0) e.act = activation::gelu;
    if (random.below(3) == 0) e.preactivation = pre.view();
  }
  reference::gemm_result expected;
  std::vector<std::int32_t> exact;
  if constexpr (integers)
    exact = reference::gemm_int(a.view, b.view, before.view, e.beta != 0);
  else
    expected = reference::gemm(a.view, b.view, before.view, e);
  const gemm_bound bound{1, lipschitz(e.act), 8 * 0x1p-23 * 10};

  CAPTURE(name(dtype_of<A>));
  CAPTURE(name(dtype_of<C>));
  CAPTURE(s.rows);
  CAPTURE(s.cols);
  CAPTURE(s.depth);
  CAPTURE(a.view.transposed);
  CAPTURE(b.view.transposed);
  // compute(executor, workspace): the result is right, and the bits are those of one thread.
  const auto check = [&](const char* way, index scratch, const auto& compute) {
    CAPTURE(way);
    guarded_buffer<C> first;
    for (const int threads : {1, 2, 5}) {
      CAPTURE(threads);
      c.memory.fill_with_nan();
      pre.memory.fill_with_nan();
      for (index row = 0; e.beta != 0 && row < s.rows; ++row)
        for (index col = 0; col < s.cols; ++col) c.view()(row, col) = before.view(row, col);
      thread_executor exec(threads);
      workspace own(threads == 1 ? scratch : 0);
      compute(static_cast<executor>(exec), own);
      if (threads == 1) {
        CHECK(own.bytes() == scratch);
        if constexpr (integers) {
          index wrong = c.intact() ? 0 : 1;
          for (index row = 0; row < s.rows; ++row)
            for (index col = 0; col < s.cols; ++col)
              wrong += c.view()(row, col) != exact[static_cast<std::size_t>(row * s.cols + col)];
          CHECK(wrong == 0);
        } else {
          CHECK(count_wrong(c, expected.c, expected.magnitude, s.depth, bound) == 0);
          if (e.preactivation.data != nullptr)
            CHECK(count_wrong(pre, expected.preactivation, expected.magnitude, s.depth, bound) == 0);
        }
        first = guarded_buffer<C>(c.memory.size());
        std::memcpy(static_cast<void*>(first.data()), c.memory.data(),
                    static_cast<std::size_t>(first.size()) * sizeof(C));
      }
      CHECK(same_bits(first, c.memory));
    }
  };
  const executor serial = serial_executor();
  check("plain", gemm_workspace(a.view, b.view, c.view(), {}, e, serial),
        [&](const executor& exec, workspace& own) { gemm(a.view, b.view, c.view(), e, exec, &own); });
  const packed_matrix packed = pack(b.view, dtype_of<A>);
  check("packed", gemm_workspace(a.view, packed, c.view(), e, serial),
        [&](const executor& exec, workspace& own) { gemm(a.view, packed, c.view(), e, exec, &own); });
  check("planned", 0, [&](const executor& exec, workspace&) {
    const gemm_plan plan(a.view, b.view, c.view(), e, exec);
    plan();
  });
  check("planned, packed", 0, [&](const executor& exec, workspace&) {
    const gemm_plan plan(a.view, packed, c.view(), e, exec);
    plan();
  });
}

}  // namespace

TEST_CASE("random products") {
  const guarded_allocations guard;
  on_each_level([](isa) {
    random_numbers random(20);
    for (int i = 0; i < (quick() ? 15 : 200); ++i) {
      check_random<float, float, float>(random);
      check_random<float, float, bf16>(random);
      check_random<bf16, bf16, bf16>(random);
      check_random<bf16, bf16, float>(random);
      check_random<fp16, fp16, fp16>(random);
      check_random<float, bf16, fp16>(random);
      check_random<std::uint8_t, std::int8_t, std::int32_t>(random);
      check_random<std::int8_t, std::int8_t, std::int32_t>(random);
      check_random<std::uint8_t, std::int8_t, bf16>(random);
    }
  });
}

}  // namespace test
