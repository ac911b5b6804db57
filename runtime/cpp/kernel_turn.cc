// Words of a tile, [step, lane], to the rows that they are of. Compiled for several instruction sets, each in a namespace of its own.
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "classes.h"
#include "kernels.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

// Of each row: what is written is not in a cache, and a store waits for its line.
constexpr int AHEAD_BYTES = 128;

#if defined(__SSE2__)

inline __m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
inline void store(void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); }

// Eight steps of eight lanes of 16 bits.
inline void transpose_block(const uint16_t* from, int64_t stride, uint8_t* const* to) {
  __m128i rows[8], pairs[8], fours[8];
  for (int i = 0; i < 8; ++i) rows[i] = load(from + i * stride);
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm_unpacklo_epi16(rows[2 * i], rows[2 * i + 1]);
    pairs[i + 4] = _mm_unpackhi_epi16(rows[2 * i], rows[2 * i + 1]);
  }
  for (int half = 0; half < 8; half += 4)
    for (int i = 0; i < 2; ++i) {
      fours[half + i] = _mm_unpacklo_epi32(pairs[half + 2 * i], pairs[half + 2 * i + 1]);
      fours[half + 2 + i] = _mm_unpackhi_epi32(pairs[half + 2 * i], pairs[half + 2 * i + 1]);
    }
  for (int i = 0; i < 4; ++i) {
    store(to[2 * i], _mm_unpacklo_epi64(fours[2 * i], fours[2 * i + 1]));
    store(to[2 * i + 1], _mm_unpackhi_epi64(fours[2 * i], fours[2 * i + 1]));
  }
}

// Eight steps of eight lanes of 32 bits.
inline void transpose_block(const uint32_t* from, int64_t stride, uint8_t* const* to) {
  for (int lane = 0; lane < 8; lane += 4)
    for (int step = 0; step < 8; step += 4) {
      const uint32_t* at = from + step * stride + lane;
      const __m128i a = load(at), b = load(at + stride), c = load(at + 2 * stride), d = load(at + 3 * stride);
      const __m128i ab = _mm_unpacklo_epi32(a, b), cd = _mm_unpacklo_epi32(c, d);
      const __m128i ab2 = _mm_unpackhi_epi32(a, b), cd2 = _mm_unpackhi_epi32(c, d);
      store(to[lane] + 4 * step, _mm_unpacklo_epi64(ab, cd)), store(to[lane + 1] + 4 * step, _mm_unpackhi_epi64(ab, cd));
      store(to[lane + 2] + 4 * step, _mm_unpacklo_epi64(ab2, cd2)), store(to[lane + 3] + 4 * step, _mm_unpackhi_epi64(ab2, cd2));
    }
}

#endif

template <class Word>
inline void transpose_block(const Word* from, int64_t stride, uint8_t* const* to) {
  for (int lane = 0; lane < 8; ++lane)
    for (int step = 0; step < 8; ++step) std::memcpy(to[lane] + step * sizeof(Word), from + step * stride + lane, sizeof(Word));
}

// In blocks of eight lanes, so that a line of each of their rows is written while it is in the cache.
template <class Word>
void transpose_words(const Turn& job) {
  const Word* from = reinterpret_cast<const Word*>(job.from);
  for (int64_t lane = 0; lane < job.lanes; lane += 8) {
    const int64_t lanes = job.lanes - lane < 8 ? job.lanes - lane : 8;
    int64_t step = 0;
    for (; lanes == 8 && step + 8 <= job.steps; step += 8) {
      uint8_t* to[8];
      for (int i = 0; i < 8; ++i) {
        to[i] = job.to + job.first[lane + i] + step * static_cast<int64_t>(sizeof(Word));
        __builtin_prefetch(to[i] + AHEAD_BYTES, 1);
      }
      transpose_block(from + step * PANEL + lane, PANEL, to);
    }
    for (int64_t i = 0; i < lanes; ++i)
      for (int64_t at = step; at < job.steps; ++at)
        std::memcpy(job.to + job.first[lane + i] + at * static_cast<int64_t>(sizeof(Word)), from + at * PANEL + lane + i, sizeof(Word));
  }
}

}  // namespace

void turn_words(const Turn* job) {
  switch (job->bytes) {
    case 1:
      return transpose_words<uint8_t>(*job);
    case 2:
      return transpose_words<uint16_t>(*job);
    case 4:
      return transpose_words<uint32_t>(*job);
    default:
      return transpose_words<uint64_t>(*job);
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
