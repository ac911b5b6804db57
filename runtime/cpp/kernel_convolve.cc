// Convolutions: planes of neighbours, and what their sums become. Compiled for several instruction sets.
#include "kernels.h"
#include "parts.h"
#include "vector_math.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

#if VECTOR_BYTES == 64
// Up to sixteen lanes of up to sixteen rows: pairs, fours and so on of rows exchange halves, in registers. Where the next rows go is asked
// for.
void transpose_some(const Transposition& t, __m512 bias) {
  __m512 rows[16], pairs[16];
  for (int64_t lane = 0; lane < t.lanes; ++lane) __builtin_prefetch(t.to + lane * t.to_row + 16, 1);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_add_ps(i < t.m ? _mm512_loadu_ps(t.from + i * PANEL) : _mm512_setzero_ps(), bias);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2)
    pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]), pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(pairs[i + j]), high = _mm512_castps_pd(pairs[i + j + 2]);
      rows[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                   rows[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
  // rows[4 * g + c] has, in quarter q, lane 4 * q + c of the rows 4 * g to 4 * g + 3.
  const Floats low = all(t.finish.low), high = all(t.finish.high);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88), odd_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xDD);
    const __m512 even_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88),
                 odd_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xDD);
    const __m512 quarters[4] = {_mm512_shuffle_f32x4(even_low, even_high, 0x88), _mm512_shuffle_f32x4(odd_low, odd_high, 0x88),
                                _mm512_shuffle_f32x4(even_low, even_high, 0xDD), _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD)};
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const int64_t lane = 4 * q + c, at = lane * t.to_row;
      if (lane >= t.lanes) continue;
      Floats values = (Floats)quarters[q];
      if (t.finish.residual) values += load_some(t.finish.residual + at, t.m);
      store_some(t.to + at, clamp(values, low, high), t.m);
    }
  }
}

}  // namespace

void transpose(const Transposition* transposition) {
  const Transposition& t = *transposition;
  for (int64_t lane = 0; lane < t.lanes; lane += FLOATS) {
    Transposition some = t;
    some.lanes = t.lanes - lane < FLOATS ? t.lanes - lane : FLOATS;
    const Floats bias = t.finish.biases ? load_some(t.finish.biases + lane, some.lanes) : Floats{};
    for (int64_t row = 0; row < t.m; row += 16) {
      const int64_t at = lane * t.to_row + row;
      some.from = t.from + row * PANEL + lane, some.m = t.m - row < 16 ? t.m - row : 16, some.to = t.to + at;
      some.finish.residual = t.finish.residual ? t.finish.residual + at : nullptr;
      transpose_some(some, (__m512)bias);
    }
  }
}
#else
typedef float Four __attribute__((vector_size(16)));

inline Four load_four(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

// Four lanes of four rows.
inline void transpose_four(const float* from, Four bias, float* to, int64_t to_row) {
  const Four a = load_four(from) + bias, b = load_four(from + PANEL) + bias;
  const Four c = load_four(from + 2 * PANEL) + bias, d = load_four(from + 3 * PANEL) + bias;
#pragma GCC unroll 4
  for (int lane = 0; lane < 4; ++lane) {
    const Four rows = {a[lane], b[lane], c[lane], d[lane]};
    std::memcpy(to + lane * to_row, &rows, sizeof rows);
  }
}

// What is left of finishing: residual and limits.
void finish_row(float* to, const float* residual, int64_t count, const Finish& finish) {
  const Floats low = all(finish.low), high = all(finish.high);
  for (int64_t i = 0; i < count; i += FLOATS) {
    const Floats values = load_some(to + i, count - i);
    store_some(to + i, clamp(residual ? values + load_some(residual + i, count - i) : values, low, high), count - i);
  }
}

}  // namespace

void transpose(const Transposition* transposition) {
  const Transposition& t = *transposition;
  const float* biases = t.finish.biases;
  int64_t lane = 0;
  for (; lane + 4 <= t.lanes; lane += 4) {
    const Four added = biases ? load_four(biases + lane) : Four{};
    int64_t row = 0;
    for (; row + 4 <= t.m; row += 4) transpose_four(t.from + row * PANEL + lane, added, t.to + lane * t.to_row + row, t.to_row);
    for (; row < t.m; ++row)
      for (int i = 0; i < 4; ++i) t.to[(lane + i) * t.to_row + row] = t.from[row * PANEL + lane + i] + added[i];
  }
  for (; lane < t.lanes; ++lane)
    for (int64_t row = 0; row < t.m; ++row) t.to[lane * t.to_row + row] = t.from[row * PANEL + lane] + (biases ? biases[lane] : 0.0f);
  for (lane = 0; lane < t.lanes; ++lane)
    finish_row(t.to + lane * t.to_row, t.finish.residual ? t.finish.residual + lane * t.to_row : nullptr, t.m, t.finish);
}
#endif

namespace {

constexpr uint32_t ALL_LANES = (1u << FLOATS) - 1;

// The floats of these lanes, next to each other in memory.
inline Floats load_lanes(const float* from, uint32_t lanes) {
#if VECTOR_BYTES == 64
  const __m512 together = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << _mm_popcnt_u32(lanes)) - 1), from);
  return (Floats)_mm512_maskz_expand_ps(static_cast<__mmask16>(lanes), together);
#else
  alignas(VECTOR_BYTES) float values[FLOATS];
  for (int lane = 0; lane < FLOATS; ++lane) values[lane] = lanes >> lane & 1 ? *from++ : 0.0f;
  return load_some(values, FLOATS);
#endif
}

inline void store_lanes(float* to, Floats floats, uint32_t lanes) {
  if (lanes == ALL_LANES) return store_some(to, floats, FLOATS);
#if VECTOR_BYTES == 64
  const __m512 together = _mm512_maskz_compress_ps(static_cast<__mmask16>(lanes), (__m512)floats);
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << _mm_popcnt_u32(lanes)) - 1), together);
#else
  for (int lane = 0; lane < FLOATS; ++lane)
    if (lanes >> lane & 1) *to++ = floats[lane];
#endif
}

// What a tap reads of patch `first` + i.
template <bool MASKED>
inline Floats tap_values(const Correlation& c, const float* from, [[maybe_unused]] int64_t tap, int64_t first, int i) {
#if VECTOR_BYTES == 64
  if constexpr (MASKED)
    return (Floats)_mm512_maskz_loadu_ps(c.masks[tap * c.patch_count + first + i], from + c.patches[first].position + i * FLOATS);
#endif
  return load_some(from + c.patches[first + i].position, FLOATS);
}

template <int MANY, bool MASKED>
inline void correlate_patches(const Correlation& c, int64_t first) {
  const Finish finish = c.finish;
  const Floats bias = all(finish.biases ? *finish.biases : 0.0f), low = all(finish.low), high = all(finish.high);
  Floats sum[MANY] = {};
  for (int64_t tap = 0; tap < c.taps; ++tap) {
    const float* from = c.from + c.offsets[tap];
    const float weight = c.weights[tap * PANEL];
#pragma GCC unroll 8
    for (int i = 0; i < MANY; ++i) sum[i] += weight * tap_values<MASKED>(c, from, tap, first, i);
  }
#pragma GCC unroll 8
  for (int i = 0; i < MANY; ++i) {
    const Patch patch = c.patches[first + i];
    if (c.accumulate) sum[i] += load_lanes(c.y + patch.index, patch.lanes);
    if (finish.residual) sum[i] += load_lanes(finish.residual + patch.index, patch.lanes);
    store_lanes(c.y + patch.index, clamp(sum[i] + bias, low, high), patch.lanes);
  }
}

// Patches at a time: with masks they follow each other, so that one position serves all; else each has a register of its own.
template <bool MASKED>
void correlate_all(const Correlation& c) {
  constexpr int MOST = MASKED ? 8 : 4;
  in_parts<MOST>(c.patch_count, [&](int64_t first, int64_t end) {
    with_number<MOST>(end - first, [&](auto many) { correlate_patches<decltype(many)::value, MASKED>(c, first); });
  });
}

}  // namespace

void correlate(const Correlation* correlation) {
#if VECTOR_BYTES == 64
  if (correlation->masks) return correlate_all<true>(*correlation);
#endif
  correlate_all<false>(*correlation);
}

namespace {

#if VECTOR_BYTES == 64
inline __mmask16 first_of(int64_t count) { return static_cast<__mmask16>(count >= FLOATS ? 0xFFFF : count > 0 ? (1u << count) - 1 : 0); }

// The even and the odd ones of 32 floats, or of as many as the masks let be read.
struct Halves {
  __m512 even, odd;
};

inline Halves load_halves(const float* from, __mmask16 low, __mmask16 high) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512 first = _mm512_maskz_loadu_ps(low, from), second = _mm512_maskz_loadu_ps(high, from + FLOATS);
  return {_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, _mm512_add_epi32(even, _mm512_set1_epi32(1)), second)};
}

// Sixteen of every `stride`, 1 or 2, or as many as there are.
inline void copy_vector(const float* from, int64_t stride, int64_t count, float* to) {
  const int64_t last = 2 * count - 1;  // elements that may be read
  store_some(to, stride == 1 ? load_some(from, count) : (Floats)load_halves(from, first_of(last), first_of(last - FLOATS)).even, count);
}

// So far ahead the plane is asked for, and the one behind it.
constexpr int64_t AHEAD = 1024;

inline void separate_row(const float* from, int64_t columns, float* even, float* odd) {
  const auto store = [&](int64_t x, __mmask16 low, __mmask16 high) {
    __builtin_prefetch(from + x + AHEAD), __builtin_prefetch(from + x + AHEAD + FLOATS);
    const Halves halves = load_halves(from + x, low, high);
    _mm512_storeu_ps(even + x / 2, halves.even), _mm512_storeu_ps(odd + x / 2, halves.odd);
  };
  const int64_t whole = columns / (2 * FLOATS) * (2 * FLOATS);
  for (int64_t x = 0; x < whole; x += 2 * FLOATS) store(x, 0xFFFF, 0xFFFF);
  if (whole < columns) store(whole, first_of(columns - whole), first_of(columns - whole - FLOATS));
}
#else
inline void separate_row(const float* from, int64_t columns, float* even, float* odd) {
  for (int64_t x = 0; 2 * x < columns; ++x) even[x] = from[2 * x];
  for (int64_t x = 0; 2 * x + 1 < columns; ++x) odd[x] = from[2 * x + 1];
}
#endif

}  // namespace

void separate(const Separation* separation) {
  const Separation s = *separation;
  for (int64_t y = 0; y < s.rows; ++y) {
    float* to = s.to + y % 2 * 2 * s.part + y / 2 * s.row;
    separate_row(s.from + y * s.columns, s.columns, to, to + s.part);
  }
}

void spread(const float* from, const Patch* patches, int64_t patch_count, float* to) {
  for (int64_t i = 0; i < patch_count; ++i) {
    const Patch patch = patches[i];
#if VECTOR_BYTES == 64
    store_some(to + patch.position, load_lanes(from + patch.index, patch.lanes), FLOATS);
#else
    const float* values = from + patch.index;
    for (int lane = 0; lane < FLOATS; ++lane) to[patch.position + lane] = patch.lanes >> lane & 1 ? *values++ : 0.0f;
#endif
  }
}

void copy_spans(const float* from, const Span* spans, int64_t span_count, int64_t stride, float* to) {
  for (int64_t i = 0; i < span_count; ++i) {
    const Span span = spans[i];
    int64_t at = 0;
#if VECTOR_BYTES == 64
    for (; stride <= 2 && at < span.count; at += FLOATS)
      copy_vector(from + span.from + at * stride, stride, span.count - at, to + span.to + at);
#endif
    for (; at < span.count; ++at) to[span.to + at] = from[span.from + at * stride];
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
