/// One wrapper for each AMX instruction, and an owner of the tile configuration.
///
/// The compilers' own _tile_* macros are not used: g++ 12's _tile_loadd has no memory clobber and its
/// _tile_loadconfig names 8 of the 64 bytes as read, so that at -O2 the stores of a configuration and of a
/// packing loop into a local buffer were deleted. Here all are volatile and clobber memory, and LDTILECFG
/// reads its whole object. Tiles are template arguments, 0 to 7; strides are in bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../detail/level.hpp"

EINKORN_BEGIN_LEVEL
namespace amx {

/// The operand of LDTILECFG: palette 1, eight tiles of at most 16 rows x 64 bytes. A tile left at 0 x 0 is
/// unused.
struct alignas(64) tile_config {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;  // where an interrupted load or store goes on
  std::uint8_t reserved[14] = {};
  std::uint16_t colsb[16] = {};  // bytes a row; 8 to 15 stay 0
  std::uint8_t rows[16] = {};

  tile_config& set(int tile, std::ptrdiff_t row_count, std::ptrdiff_t row_bytes) {
    rows[tile] = static_cast<std::uint8_t>(row_count);
    colsb[tile] = static_cast<std::uint16_t>(row_bytes);
    return *this;
  }
};
static_assert(sizeof(tile_config) == 64);

inline void load_config(const tile_config& config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

/// All zero where no configuration is loaded.
inline void store_config(tile_config& config) { asm volatile("sttilecfg %0" : "=m"(config) : : "memory"); }

inline void release() { asm volatile("tilerelease" : : : "memory"); }

template <int Tile>
inline void zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Tile) : "memory");
}

/// Row r from rows + Offset + r * stride. An offset of its own keeps address arithmetic out of inner loops.
template <int Tile, int Offset = 0>
inline void load(const void* rows, std::ptrdiff_t stride) {
  asm volatile("tileloadd %c3(%0,%1,1), %%tmm%c2"
               :
               : "r"(rows), "r"(stride), "i"(Tile), "i"(Offset)
               : "memory");
}

/// As load, with the hint that the data need not stay in the nearest cache.
template <int Tile>
inline void loadt1(const void* rows, std::ptrdiff_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}

template <int Tile>
inline void store(void* rows, std::ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}

// The products: D (rows x cols dwords) += A (rows x depth dwords) * B (depth x cols dwords), three different
// tiles. A dword holds 2 or 4 neighbours along the depth.

/// Pairs of bf16 into f32. Denormals count as zero; the rounding is to nearest whatever MXCSR says.
template <int D, int A, int B>
inline void tdpbf16ps() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(D), "i"(A), "i"(B) : "memory");
}

/// Pairs of fp16 into f32; fp16's denormals count in full. Only where CPUID leaf (7, 1) has EAX bit 21.
/// As bytes, VEX.128.F2.0F38.W0 5C 11:D:A with B in VEX.vvvv, since clang 14 has no such mnemonic.
template <int D, int A, int B>
inline void tdpfp16ps() {
  asm volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1"
               :
               : "i"((~B & 15) << 3 | 3), "i"(0xc0 | D << 3 | A)
               : "memory");
}

/// s8 by s8 into i32, modulo 2^32 like all byte products.
template <int D, int A, int B>
inline void tdpbssd() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(D), "i"(A), "i"(B) : "memory");
}

/// A s8, B u8.
template <int D, int A, int B>
inline void tdpbsud() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(D), "i"(A), "i"(B) : "memory");
}

/// A u8, B s8.
template <int D, int A, int B>
inline void tdpbusd() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(D), "i"(A), "i"(B) : "memory");
}

template <int D, int A, int B>
inline void tdpbuud() {
  asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(D), "i"(A), "i"(B) : "memory");
}

/// Loads a configuration for the time of a scope. A caller's own configuration is back afterwards, its tile
/// data is not (tiles are volatile in the ABI); without one the tiles are released, which spares the kernel
/// 8 KiB at each context switch.
class tile_scope {
 public:
  explicit tile_scope(const tile_config& config) {
    store_config(caller_);
    load_config(config);
  }
  tile_scope(const tile_scope&) = delete;
  tile_scope& operator=(const tile_scope&) = delete;
  ~tile_scope() {
    if (caller_.palette != 0)
      load_config(caller_);
    else
      release();
  }

 private:
  tile_config caller_;
};

}  // namespace amx
EINKORN_END_LEVEL
