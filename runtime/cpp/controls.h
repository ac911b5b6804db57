// How bytes of a stream are spread over the lanes that take one, eight lanes at a time.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include <cstdint>

#if defined(__SSE4_1__)
#include <immintrin.h>
#endif

#define ONNX_COMPRESS_INLINE inline __attribute__((always_inline))

namespace onnx_compress {
namespace {

// low[mask]: for each of eight lanes the number of its byte among those that the mask's lanes take, or 128 (a shuffle then gives 0).
// high: the same of bytes that stand eight places further.
struct Controls {
  uint8_t low[256][8], high[256][8];
  constexpr Controls() : low(), high() {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, taken = 0; lane < 8; ++lane) {
        const bool takes = mask >> lane & 1;
        low[mask][lane] = static_cast<uint8_t>(takes ? taken : 128), high[mask][lane] = static_cast<uint8_t>(takes ? taken + 8 : 128);
        taken += takes;
      }
  }
};
alignas(64) constexpr Controls CONTROLS;

ONNX_COMPRESS_INLINE const uint8_t* low_control(uint8_t mask) { return CONTROLS.low[mask]; }
ONNX_COMPRESS_INLINE const uint8_t* high_control(uint8_t mask) { return CONTROLS.high[mask]; }

#if defined(__SSE4_1__)
ONNX_COMPRESS_INLINE __m128i two_octets(const uint8_t* first, const uint8_t* second) {
  const __m128 low = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(first)));
  return _mm_castps_si128(_mm_loadh_pi(low, reinterpret_cast<const __m64*>(second)));
}
#endif

}  // namespace
}  // namespace onnx_compress
