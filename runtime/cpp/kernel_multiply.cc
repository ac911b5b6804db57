// Multiplying with a decoded tile, which is already the packed panel of a micro-kernel. Compiled for several instruction sets.
#include "classes.h"
#include "kernels.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
constexpr int FLOATS = VECTOR_BYTES / 4;
// Columns of vectors that are multiplied at once, and for each number of them the rows: rows x columns sums, the columns and one of x must
// fit the registers, 32 of them with AVX-512 and on ARM, else 16; and each row has a pointer.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int COLUMNS = 4;
constexpr int rows_of(int columns) { return columns == 4 ? 6 : columns == 3 ? 8 : 12; }
#else
constexpr int COLUMNS = 2;
constexpr int rows_of(int columns) { return columns == 2 ? 6 : 12; }
#endif

inline Floats load(const float* from) {
  Floats floats;
  std::memcpy(&floats, from, sizeof floats);
  return floats;
}

inline void store(float* to, Floats floats) { std::memcpy(to, &floats, sizeof floats); }

// MANY rows of x with COLS vectors of lanes from `lane` on.
template <int MANY, int COLS>
void multiply_block(const Product& p, int64_t row, int64_t lane) {
  const float* x[MANY];
  for (int m = 0; m < MANY; ++m) x[m] = p.x[row + m];
  const float* tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[MANY][COLS] = {};
  for (int64_t k = 0; k < p.k; ++k, tile += PANEL) {
    const int64_t offset = p.offsets[k];
    Floats weight[COLS];
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) weight[c] = load(tile + c * FLOATS);
#pragma GCC unroll 12
    for (int m = 0; m < MANY; ++m) {
      const float value = x[m][offset];
#pragma GCC unroll 4
      for (int c = 0; c < COLS; ++c) sum[m][c] += value * weight[c];
    }
  }
#pragma GCC unroll 12
  for (int m = 0; m < MANY; ++m)
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) {
      float* to = y + m * p.y_row + c * FLOATS;
      store(to, p.accumulate ? load(to) + sum[m][c] : sum[m][c]);
    }
}

// One row of x: the sums of every fourth step are kept apart, because a sum waits four cycles for the one before.
template <int COLS>
void multiply_row(const Product& p, int64_t row, int64_t lane) {
  constexpr int APART = 4;
  const float *x = p.x[row], *tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[APART][COLS] = {};
  int64_t k = 0;
  for (; k + APART <= p.k; k += APART, tile += APART * PANEL)
#pragma GCC unroll 4
    for (int i = 0; i < APART; ++i) {
      const float value = x[p.offsets[k + i]];
#pragma GCC unroll 4
      for (int c = 0; c < COLS; ++c) sum[i][c] += value * load(tile + i * PANEL + c * FLOATS);
    }
  for (; k < p.k; ++k, tile += PANEL)
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) sum[0][c] += x[p.offsets[k]] * load(tile + c * FLOATS);
#pragma GCC unroll 4
  for (int c = 0; c < COLS; ++c) {
    const Floats all = (sum[0][c] + sum[1][c]) + (sum[2][c] + sum[3][c]);
    store(y + c * FLOATS, p.accumulate ? load(y + c * FLOATS) + all : all);
  }
}

// `many` rows, at most MANY.
template <int COLS, int MANY>
void multiply_rows(const Product& p, int64_t row, int64_t many, int64_t lane) {
  if constexpr (MANY == 1) {
    multiply_row<COLS>(p, row, lane);
  } else {
    many == MANY ? multiply_block<MANY, COLS>(p, row, lane) : multiply_rows<COLS, MANY - 1>(p, row, many, lane);
  }
}

// All rows, in as few blocks as their sums allow, of almost equal size.
template <int COLS>
void multiply_columns(const Product& p, int64_t lane) {
  constexpr int ROWS = rows_of(COLS);
  const int64_t blocks = (p.m + ROWS - 1) / ROWS;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = p.m * block / blocks, end = p.m * (block + 1) / blocks;
    multiply_rows<COLS, ROWS>(p, row, end - row, lane);
  }
}

// `columns` of them, at most COLS.
template <int COLS>
void multiply_some(const Product& p, int64_t lane, int columns) {
  if constexpr (COLS == 1) {
    multiply_columns<1>(p, lane);
  } else {
    columns == COLS ? multiply_columns<COLS>(p, lane) : multiply_some<COLS - 1>(p, lane, columns);
  }
}

}  // namespace

void multiply(const Product* product) {
  const Product p = *product;
  const int columns = static_cast<int>((p.lanes + FLOATS - 1) / FLOATS);
  for (int column = 0; column < columns; column += COLUMNS)
    multiply_some<COLUMNS>(p, column * FLOATS, columns - column < COLUMNS ? columns - column : COLUMNS);
}

namespace {

#if VECTOR_BYTES == 64
// Up to sixteen lanes of up to sixteen rows: pairs, fours and so on of rows exchange halves, in registers.
void transpose_some(const float* from, int64_t m, int64_t lanes, __m512 bias, float* to, int64_t to_row) {
  __m512 rows[16], pairs[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = _mm512_add_ps(i < m ? _mm512_loadu_ps(from + i * PANEL) : _mm512_setzero_ps(), bias);
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
  const __mmask16 some = static_cast<__mmask16>((1u << m) - 1);
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88), odd_low = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xDD);
    const __m512 even_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88),
                 odd_high = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xDD);
    const __m512 quarters[4] = {_mm512_shuffle_f32x4(even_low, even_high, 0x88), _mm512_shuffle_f32x4(odd_low, odd_high, 0x88),
                                _mm512_shuffle_f32x4(even_low, even_high, 0xDD), _mm512_shuffle_f32x4(odd_low, odd_high, 0xDD)};
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q)
      if (4 * q + c < lanes) _mm512_mask_storeu_ps(to + (4 * q + c) * to_row, some, quarters[q]);
  }
}

}  // namespace

void transpose(const float* from, int64_t m, int64_t lanes, const float* bias, float* to, int64_t to_row) {
  for (int64_t lane = 0; lane < lanes; lane += FLOATS) {
    const int64_t many = lanes - lane < FLOATS ? lanes - lane : FLOATS;
    const __mmask16 some = static_cast<__mmask16>((1u << many) - 1);
    const __m512 added = bias ? _mm512_maskz_loadu_ps(some, bias + lane) : _mm512_setzero_ps();
    for (int64_t row = 0; row < m; row += 16)
      transpose_some(from + row * PANEL + lane, m - row < 16 ? m - row : 16, many, added, to + lane * to_row + row, to_row);
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

}  // namespace

void transpose(const float* from, int64_t m, int64_t lanes, const float* bias, float* to, int64_t to_row) {
  int64_t lane = 0;
  for (; lane + 4 <= lanes; lane += 4) {
    const Four added = bias ? load_four(bias + lane) : Four{};
    int64_t row = 0;
    for (; row + 4 <= m; row += 4) transpose_four(from + row * PANEL + lane, added, to + lane * to_row + row, to_row);
    for (; row < m; ++row)
      for (int i = 0; i < 4; ++i) to[(lane + i) * to_row + row] = from[row * PANEL + lane + i] + added[i];
  }
  for (; lane < lanes; ++lane)
    for (int64_t row = 0; row < m; ++row) to[lane * to_row + row] = from[row * PANEL + lane] + (bias ? bias[lane] : 0.0f);
}
#endif

namespace {

constexpr uint32_t ALL_LANES = (1u << FLOATS) - 1;

// The floats of these lanes, next to each other.
inline void store_lanes(float* to, Floats floats, uint32_t lanes) {
  if (lanes == ALL_LANES) return store(to, floats);
#if VECTOR_BYTES == 64
  const __m512 together = _mm512_maskz_compress_ps(static_cast<__mmask16>(lanes), (__m512)floats);
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << _mm_popcnt_u32(lanes)) - 1), together);
#else
  for (int lane = 0; lane < FLOATS; ++lane)
    if (lanes >> lane & 1) *to++ = floats[lane];
#endif
}

template <int MANY>
inline void correlate_patches(const Correlation& c, int64_t first) {
  Floats sum[MANY];
#pragma GCC unroll 4
  for (int i = 0; i < MANY; ++i) sum[i] = Floats{} + c.bias;
  for (int64_t tap = 0; tap < c.taps; ++tap) {
    const float* source = c.sources[tap];
    const float weight = c.weights[tap];
#pragma GCC unroll 4
    for (int i = 0; i < MANY; ++i) sum[i] += weight * load(source + c.patches[first + i].position);
  }
#pragma GCC unroll 4
  for (int i = 0; i < MANY; ++i) {
    const Patch patch = c.patches[first + i];
    float* to = c.y + patch.index;
    for (int lane = 0; c.accumulate && lane < FLOATS; ++lane)
      if (patch.lanes >> lane & 1) *to++ += sum[i][lane];
    if (!c.accumulate) store_lanes(to, sum[i], patch.lanes);
  }
}

}  // namespace

void correlate(const Correlation* correlation) {
  const Correlation c = *correlation;
  int64_t patch = 0;
  for (; patch + 4 <= c.patch_count; patch += 4) correlate_patches<4>(c, patch);
  for (; patch < c.patch_count; ++patch) correlate_patches<1>(c, patch);
}

namespace {

#if VECTOR_BYTES == 64
// Sixteen of every `stride`, 1 or 2, or as many as there are.
inline void copy_vector(const float* from, int64_t stride, int64_t count, float* to) {
  const __mmask16 wanted = static_cast<__mmask16>(count < FLOATS ? (1u << count) - 1 : 0xFFFFu);
  __m512 values;
  if (stride == 1) {
    values = _mm512_maskz_loadu_ps(wanted, from);
  } else {
    const int64_t last = 2 * count - 1;  // elements that may be read
    const __mmask16 low = static_cast<__mmask16>(last < FLOATS ? (1u << last) - 1 : 0xFFFFu);
    const __mmask16 high = static_cast<__mmask16>(last <= FLOATS ? 0 : last < 2 * FLOATS ? (1u << (last - FLOATS)) - 1 : 0xFFFFu);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    values = _mm512_permutex2var_ps(_mm512_maskz_loadu_ps(low, from), even, _mm512_maskz_loadu_ps(high, from + FLOATS));
  }
  _mm512_mask_storeu_ps(to, wanted, values);
}
#endif

}  // namespace

void spread(const float* from, const Patch* patches, int64_t patch_count, float* to) {
  for (int64_t i = 0; i < patch_count; ++i) {
    const Patch patch = patches[i];
    const float* values = from + patch.index;
#if VECTOR_BYTES == 64
    const __m512 together = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << _mm_popcnt_u32(patch.lanes)) - 1), values);
    _mm512_storeu_ps(to + patch.position, _mm512_maskz_expand_ps(static_cast<__mmask16>(patch.lanes), together));
#else
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
