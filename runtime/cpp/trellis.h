// The trellis of FORMAT.md, section 5. Everything has internal linkage: kernel files include it, once for each instruction set.
#pragma once

#include <cstdint>

namespace onnx_compress {
namespace {

// "NEXT = [0, 2], [5, 7], [1, 3], [6, 4], [2, 0], [4, 6], [3, 1], [7, 5]"
constexpr uint8_t NEXT[8][2] = {{0, 2}, {5, 7}, {1, 3}, {6, 4}, {2, 0}, {4, 6}, {3, 1}, {7, 5}};

// "m = 2 * level - q * sign(level)"
constexpr int32_t multiple_of(int32_t level, int32_t quantizer) { return 2 * level - quantizer * ((level > 0) - (level < 0)); }

// NEXT as formulas of bits, which need no lookup: loops over lanes become vectors.
constexpr uint8_t next_state(unsigned state, unsigned parity) {
  const unsigned low = state & 1, middle = state >> 1 & 1, high = state >> 2;
  const unsigned odd = 0u - low;  // all ones in an odd state
  return static_cast<uint8_t>(low << 2 | (((odd & middle) | (~odd & high)) ^ parity) << 1 | (middle ^ (odd & (high ^ 1))));
}

constexpr bool next_is_as_written() {
  for (unsigned state = 0; state < 8; ++state)
    for (unsigned parity = 0; parity < 2; ++parity)
      if (next_state(state, parity) != NEXT[state][parity]) return false;
  return true;
}
static_assert(next_is_as_written(), "the trellis of FORMAT.md");

}  // namespace
}  // namespace onnx_compress
