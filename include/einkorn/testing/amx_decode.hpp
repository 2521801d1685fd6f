/// Decodes the machine code of the AMX instructions: AMX-TILE, AMX-BF16, AMX-INT8 and AMX-FP16.
///
/// All are VEX.128, map 0F38, W0 (Intel's Software Developer's Manual, volume 2):
///   49  LDTILECFG NP /0 mem, STTILECFG 66 /0 mem, TILERELEASE NP C0, TILEZERO F2 11:rrr:000
///   4B  TILELOADD F2, TILELOADDT1 66, TILESTORED F3, each with a SIB byte whose index is the stride
///   5C  TDPBF16PS F3, TDPFP16PS F2
///   5E  TDPBSSD F2, TDPBSUD F3, TDPBUSD 66, TDPBUUD NP
/// Destination in ModRM.reg, first source in ModRM.rm, second source in VEX.vvvv.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../config.hpp"

EINKORN_BEGIN_NAMESPACE
namespace testing {

enum class amx_op {
  ldtilecfg,
  sttilecfg,
  tilerelease,
  tilezero,
  tileloadd,
  tileloaddt1,
  tilestored,
  tdpbf16ps,
  tdpfp16ps,
  tdpbssd,
  tdpbsud,
  tdpbusd,
  tdpbuud,
};
inline constexpr std::size_t amx_op_count = 13;

/// The mnemonic as Intel writes it.
constexpr const char* to_string(amx_op op) {
  constexpr const char* names[amx_op_count] = {
      "LDTILECFG", "STTILECFG", "TILERELEASE", "TILEZERO", "TILELOADD", "TILELOADDT1", "TILESTORED",
      "TDPBF16PS", "TDPFP16PS", "TDPBSSD",     "TDPBSUD",  "TDPBUSD",   "TDPBUUD"};
  return names[static_cast<std::size_t>(op)];
}

/// One decoded instruction. Registers are numbers as in machine code (0 rax … 15 r15); none is -1.
struct amx_instruction {
  enum class segment : std::uint8_t { flat, fs, gs };

  amx_op op{};
  int length = 0;                 ///< bytes of machine code
  int reg = 0, rm = 0, vvvv = 0;  ///< tile operands
  int base = -1, index = -1;      ///< address = base + displacement; stride = index << scale
  int scale = 0;
  bool rip_relative = false;  ///< address = next instruction + displacement
  std::int64_t displacement = 0;
  segment override_segment = segment::flat;
  const char* refused = nullptr;  ///< why the encoding is #UD although the opcode is AMX's
};

/// Decodes at `code`; false where it is no AMX instruction. Never reads beyond the instruction's own bytes.
inline bool amx_decode(const std::uint8_t* code, amx_instruction& out) {
  const std::uint8_t* p = code;
  out = {};
  // Segment overrides may stand before VEX; of those, only fs and gs mean something in 64-bit code. 66, F2,
  // F3, LOCK or REX there make it undefined. The address-size prefix is not supported: compilers never write
  // it.
  for (;; ++p) {
    if (*p == 0x64) {
      out.override_segment = amx_instruction::segment::fs;
    } else if (*p == 0x65) {
      out.override_segment = amx_instruction::segment::gs;
    } else if (*p != 0x26 && *p != 0x2e && *p != 0x36 && *p != 0x3e) {
      break;
    }
    if (p - code >= 4) return false;
  }
  // VEX: C4 | R X B (inverted) mmmmm | W vvvv (inverted) L pp. The two-byte form C5 cannot name map 0F38.
  if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0) return false;
  const int r = (p[1] & 0x80) ? 0 : 8, x = (p[1] & 0x40) ? 0 : 8, b = (p[1] & 0x20) ? 0 : 8;
  const int prefix = p[2] & 3;  // 0 none, 1 66, 2 F3, 3 F2
  out.vvvv = (~p[2] >> 3) & 15;
  const std::uint8_t opcode = p[3];
  if (opcode != 0x49 && opcode != 0x4b && opcode != 0x5c && opcode != 0x5e) return false;
  const std::uint8_t modrm = p[4];
  p += 5;
  const int mod = modrm >> 6, reg = (modrm >> 3) & 7, rm = modrm & 7;
  out.reg = reg + r;
  out.rm = rm + b;

  bool memory = false;
  if (opcode == 0x49) {
    if (mod == 3) {
      if (prefix == 0 && reg == 0 && rm == 0)
        out.op = amx_op::tilerelease;
      else if (prefix == 3 && rm == 0)
        out.op = amx_op::tilezero;
      else
        return false;
    } else {
      if (reg != 0 || prefix > 1) return false;
      out.op = prefix == 0 ? amx_op::ldtilecfg : amx_op::sttilecfg;
      memory = true;
    }
  } else if (opcode == 0x4b) {
    if (prefix == 0 || mod == 3) return false;
    constexpr amx_op ops[4] = {{}, amx_op::tileloaddt1, amx_op::tilestored, amx_op::tileloadd};
    out.op = ops[prefix];
    memory = true;
    if (rm != 4) out.refused = "the address has no SIB byte";
  } else {
    if (mod != 3 || (opcode == 0x5c && prefix < 2)) return false;
    constexpr amx_op floats[4] = {{}, {}, amx_op::tdpbf16ps, amx_op::tdpfp16ps};
    constexpr amx_op bytes[4] = {amx_op::tdpbuud, amx_op::tdpbusd, amx_op::tdpbsud, amx_op::tdpbssd};
    out.op = (opcode == 0x5c ? floats : bytes)[prefix];
    if (out.vvvv > 7 || out.rm > 7) out.refused = "it names a tile above tmm7";
  }
  if ((opcode == 0x49 || opcode == 0x4b) && out.vvvv != 0) out.refused = "VEX.vvvv is not 1111b";
  const bool names_tile = !(opcode == 0x49 && out.op != amx_op::tilezero);
  if (names_tile && out.reg > 7) out.refused = "it names a tile above tmm7";

  if (memory) {
    out.base = rm + b;
    if (rm == 4) {
      const std::uint8_t sib = *p++;
      out.scale = sib >> 6;
      out.index = ((sib >> 3) & 7) + x;
      if (out.index == 4) out.index = -1;  // "none"; r12 is a real index
      out.base = (sib & 7) + b;
      if (mod == 0 && (sib & 7) == 5) out.base = -1;
    } else if (mod == 0 && rm == 5) {
      out.base = -1;
      out.rip_relative = true;
    }
    if (mod == 1) {
      out.displacement = static_cast<std::int8_t>(*p++);
    } else if (mod == 2 || out.base == -1) {
      std::int32_t displacement;
      std::memcpy(&displacement, p, sizeof displacement);
      out.displacement = displacement;
      p += sizeof displacement;
    }
  }
  out.length = static_cast<int>(p - code);
  return true;
}

}  // namespace testing
EINKORN_END_NAMESPACE
