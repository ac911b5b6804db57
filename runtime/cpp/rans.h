// One step of R8 over the 64 lanes of a panel (FORMAT.md, section 6), in vectors of VECTOR_BYTES bytes.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include "classes.h"

namespace onnx_compress {
namespace {

#if defined(ONNX_COMPRESS_EXPAND)

inline int renormalize(uint16_t* states, uint64_t active, const uint8_t* bytes) {
  int taken = 0;
  for (int at = 0; at < PANEL; at += 32) {
    const __m512i x = _mm512_loadu_si512(states + at);
    const __mmask32 hungry = _mm512_cmplt_epu16_mask(x, _mm512_set1_epi16(256)) & static_cast<__mmask32>(active >> at);
    const __m256i source = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + taken));
    const __m512i fed = _mm512_cvtepu8_epi16(_mm256_maskz_expand_epi8(hungry, source));
    _mm512_storeu_si512(states + at, _mm512_or_si512(_mm512_mask_slli_epi16(x, hungry, x, 8), fed));
    taken += __builtin_popcount(hungry);
  }
  return taken;
}

#elif defined(ONNX_COMPRESS_SHUFFLE) || defined(ONNX_COMPRESS_VECTOR128)

#if defined(ONNX_COMPRESS_SHUFFLE)

inline int renormalize(uint16_t* states, uint64_t active, const uint8_t* bytes) {
  int taken = 0;
  for (int at = 0; at < PANEL; at += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(states + at));
    const __m128i low = _mm_cmpeq_epi16(_mm_srli_epi16(x, 8), _mm_setzero_si128());
    const int hungry = _mm_movemask_epi8(_mm_packs_epi16(low, _mm_setzero_si128())) & static_cast<int>(active >> at & 255);
    const __m128i control = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(CONTROLS.low[hungry]));
    const __m128i source = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + taken));
    const __m128i fed = _mm_cvtepu8_epi16(_mm_shuffle_epi8(source, control));
    // A lane whose control byte is not 128 takes: its state moves up by a byte. 128 sign-extends to a negative word.
    const __m128i takes = _mm_cmpgt_epi16(_mm_cvtepi8_epi16(control), _mm_set1_epi16(-1));
    const __m128i moved = _mm_blendv_epi8(x, _mm_slli_epi16(x, 8), takes);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states + at), _mm_or_si128(moved, fed));
    taken += __builtin_popcount(static_cast<unsigned>(hungry));
  }
  return taken;
}

#else

inline int renormalize(uint16_t* states, uint64_t active, const uint8_t* bytes) {
  int taken_bytes = 0;
  for (int at = 0; at < PANEL; at += 8) {
    const Vector x = load_vector(states + at);
    const uint32_t hungry = below_256(x) & static_cast<uint32_t>(active >> at & 255);
    const uint8_t* control = CONTROLS.low[hungry];
    store_vector(states + at, either(choose(taken(control), byte_up(x), x), take_bytes(bytes + taken_bytes, control)));
    taken_bytes += __builtin_popcount(hungry);
  }
  return taken_bytes;
}

#endif

#else

inline int renormalize(uint16_t* states, uint64_t active, const uint8_t* bytes) {
  int taken = 0;
  for (int lane = 0; lane < PANEL; ++lane) {
    const int hungry = (states[lane] < 256) & static_cast<int>(active >> lane & 1);
    const int fed = states[lane] << 8 | bytes[taken];
    states[lane] = static_cast<uint16_t>(hungry ? fed : states[lane]);
    taken += hungry;
  }
  return taken;
}

#endif

// "if x < 256:  x = (x << 8) | next byte of the rans section", lanes in ascending order.
//
// The vectors above read up to 64 bytes from the position, more than a step takes. Near the payload's end they read a copy.
inline void feed(Stream& stream, uint16_t* states, uint64_t active) {
  const uint8_t* bytes = stream.bytes + stream.position;
  uint8_t copy[2 * PANEL];
  if (stream.readable - stream.position < 2 * PANEL) {
    std::memset(copy, 0, sizeof copy);
    std::memcpy(copy, bytes, stream.readable - stream.position);
    bytes = copy;
  }
  stream.position += static_cast<uint64_t>(renormalize(states, active, bytes));
}

// "or, for the escape, escape_base + e": the level without its raw part.
inline int32_t escaped_level(const Group& group, uint8_t escape) {
  return (group.escape_base + escape) * (1 << group.raw_bits) - ((1 << group.raw_bits) >> 1);
}

}  // namespace
}  // namespace onnx_compress
