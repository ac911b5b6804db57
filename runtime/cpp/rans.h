// One step of R8 over the 64 lanes of a panel (FORMAT.md, section 6), in vectors of VECTOR_BYTES bytes.
//
// Included by kernel files only, once for each instruction set: everything has internal linkage.
#pragma once

#include <cstring>

#if defined(__AVX512VBMI2__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ONNX_COMPRESS_EXPAND 1
#elif defined(__AVX2__)
#include <immintrin.h>
#define ONNX_COMPRESS_SHUFFLE 1
#endif

#if defined(__AVX512BW__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#include "stream.h"

namespace onnx_compress {
namespace {

constexpr int PANEL = 64;
typedef uint16_t Words __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t SignedWords __attribute__((vector_size(VECTOR_BYTES)));
constexpr int WORDS = VECTOR_BYTES / 2;
typedef uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));

inline Words load_words(const uint16_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

inline void store_words(uint16_t* to, Words words) { std::memcpy(to, &words, sizeof words); }

// "slot = x & 255;  i = the class with start[i] <= slot < start[i] + frequency[i]
//  x = frequency[i] * (x >> 8) + slot - start[i]"
//
// The classes ascend, so the last whose start is not above the slot is the one: a compare and three selections a class, no lookup.
// Slots and starts are below 256, so a signed compare serves. The new x is below frequency * 256 <= 65536: 16 bits hold it.
//
// Of a pair of tables, the odd one's slots lie behind the even one's: a lane of the odd quantizer looks for slot + 256.
inline Words odd_slots(const Lookup&, const uint8_t*) { return Words{}; }

inline Words odd_slots(const LookupPair&, const uint8_t* trellis) {
  Bytes states;
  std::memcpy(&states, trellis, sizeof states);
  return (__builtin_convertvector(states, Words) & 1) << 8;
}

template <typename Table>
inline void step_classes(uint16_t* states, const Table& table, const uint8_t* trellis, uint16_t* index) {
  constexpr int SHARED = 2;  // vectors that share the broadcasts of a class
  for (int at = 0; at < PANEL; at += SHARED * WORDS) {
    Words slot[SHARED], high[SHARED], frequency[SHARED], start[SHARED], found[SHARED];
    for (int v = 0; v < SHARED; ++v) {
      const Words x = load_words(states + at + v * WORDS);
      slot[v] = (x & 255) | odd_slots(table, trellis + at + v * WORDS), high[v] = x >> 8;
      frequency[v] = Words{} + table.frequency[0], start[v] = Words{}, found[v] = Words{} + table.index[0];
    }
    for (int i = 1; i < table.count; ++i) {
      const Words s = Words{} + table.start[i], f = Words{} + table.frequency[i], n = Words{} + table.index[i];
      for (int v = 0; v < SHARED; ++v) {
        const SignedWords reached = (SignedWords)slot[v] >= (SignedWords)s;
        frequency[v] = reached ? f : frequency[v];
        start[v] = reached ? s : start[v];
        found[v] = reached ? n : found[v];
      }
    }
    for (int v = 0; v < SHARED; ++v) {
      store_words(states + at + v * WORDS, frequency[v] * high[v] + slot[v] - start[v]);
      store_words(index + at + v * WORDS, found[v]);
    }
  }
}

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

#elif defined(ONNX_COMPRESS_SHUFFLE)

// controls[mask]: for each of eight lanes the number of its byte among those that the mask's lanes take, or 128 (pshufb gives 0).
struct Controls {
  uint8_t bytes[256][8];
  constexpr Controls() : bytes() {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, taken = 0; lane < 8; ++lane) bytes[mask][lane] = static_cast<uint8_t>(mask >> lane & 1 ? taken++ : 128);
  }
};
alignas(64) constexpr Controls CONTROLS;

inline int renormalize(uint16_t* states, uint64_t active, const uint8_t* bytes) {
  int taken = 0;
  for (int at = 0; at < PANEL; at += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(states + at));
    const __m128i low = _mm_cmpeq_epi16(_mm_srli_epi16(x, 8), _mm_setzero_si128());
    const int hungry = _mm_movemask_epi8(_mm_packs_epi16(low, _mm_setzero_si128())) & static_cast<int>(active >> at & 255);
    const __m128i control = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(CONTROLS.bytes[hungry]));
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

}  // namespace
}  // namespace onnx_compress
