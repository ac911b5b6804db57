// Conversions between binary32, binary16 and bfloat16, exact to the bit on every machine: integer arithmetic, and one addition whose
// rounding is the default one (FORMAT.md, section 1: round to nearest, ties to even).
#pragma once

#include <cstdint>
#include <cstring>

namespace onnx_compress {
namespace {

inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint16_t load16(const uint8_t* bytes) { return static_cast<uint16_t>(bytes[0] | bytes[1] << 8); }

inline uint32_t load32(const uint8_t* bytes) { return uint32_t{load16(bytes)} | uint32_t{load16(bytes + 2)} << 16; }

// After: Giesen, "Float->half variants", float_to_half_fast3_rtne.
inline uint16_t to_half(float value) {
  const uint32_t all = float_bits(value), sign = all & 0x80000000u, bits = all ^ sign;
  const uint32_t special = bits > 0x7F800000u ? 0x7E00u : 0x7C00u;                              // NaN, or beyond 65536
  const uint32_t small = float_bits(bits_float(bits) + bits_float(126u << 23)) - (126u << 23);  // the addition rounds at 2^-24
  const uint32_t normal = (bits + (static_cast<uint32_t>(15 - 127) << 23) + 0xFFFu + ((bits >> 13) & 1u)) >> 13;
  const uint32_t half = bits >= 0x47800000u ? special : bits < 0x38800000u ? small : normal;
  return static_cast<uint16_t>(half | sign >> 16);
}

inline float from_half(uint16_t half) {
  const uint32_t shifted = (half & 0x7FFFu) << 13, exponent = shifted & 0x0F800000u;
  const uint32_t rebased = shifted + (112u << 23);
  const float small = bits_float(rebased + (1u << 23)) - bits_float(113u << 23);
  const uint32_t bits = exponent == 0x0F800000u ? rebased + (112u << 23) : exponent == 0 ? float_bits(small) : rebased;
  return bits_float(bits | (half & 0x8000u) << 16);
}

inline uint16_t to_bfloat(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? bits >> 16 | 0x40u : rounded);
}

inline float from_bfloat(uint16_t bfloat) { return bits_float(uint32_t{bfloat} << 16); }

}  // namespace
}  // namespace onnx_compress
