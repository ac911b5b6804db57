// Multiplying with a decoded tile, which is already the packed panel of a micro-kernel. Compiled for several instruction sets.
#include "rans.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
constexpr int FLOATS = VECTOR_BYTES / 4;
// ROWS x COLUMNS accumulators, COLUMNS of the tile and one of x must fit the registers: 32 of them with AVX-512 and on ARM, else 16.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int ROWS = 6, COLUMNS = 4;
#else
constexpr int ROWS = 6, COLUMNS = 2;
#endif

inline Floats load(const float* from) {
  Floats floats;
  std::memcpy(&floats, from, sizeof floats);
  return floats;
}

inline void store(float* to, Floats floats) { std::memcpy(to, &floats, sizeof floats); }

// MANY rows of x with COLUMNS vectors of lanes from `lane` on.
template <int MANY>
void multiply_block(const Product& p, int64_t row, int64_t lane) {
  const float* x[MANY];
  for (int m = 0; m < MANY; ++m) x[m] = p.x[row + m];
  const float* tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[MANY][COLUMNS] = {};
  for (int64_t k = 0; k < p.k; ++k, tile += PANEL) {
    const int64_t offset = p.offsets[k];
    Floats weight[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) weight[c] = load(tile + c * FLOATS);
#pragma GCC unroll 6
    for (int m = 0; m < MANY; ++m) {
      const float value = x[m][offset];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) sum[m][c] += value * weight[c];
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < MANY; ++m)
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      float* to = y + m * p.y_row + c * FLOATS;
      store(to, p.accumulate ? load(to) + sum[m][c] : sum[m][c]);
    }
}

// One row of x: the sums of every second step are kept apart, because a sum waits four cycles for the one before.
void multiply_row(const Product& p, int64_t row, int64_t lane) {
  constexpr int APART = 4;
  const float *x = p.x[row], *tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[APART][COLUMNS] = {};
  int64_t k = 0;
  for (; k + APART <= p.k; k += APART, tile += APART * PANEL)
#pragma GCC unroll 4
    for (int i = 0; i < APART; ++i) {
      const float value = x[p.offsets[k + i]];
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) sum[i][c] += value * load(tile + i * PANEL + c * FLOATS);
    }
  for (; k < p.k; ++k, tile += PANEL)
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) sum[0][c] += x[p.offsets[k]] * load(tile + c * FLOATS);
#pragma GCC unroll 4
  for (int c = 0; c < COLUMNS; ++c) {
    const Floats all = (sum[0][c] + sum[1][c]) + (sum[2][c] + sum[3][c]);
    store(y + c * FLOATS, p.accumulate ? load(y + c * FLOATS) + all : all);
  }
}

void multiply_rest(const Product& p, int64_t row, int64_t lane) {
  switch (p.m - row) {
    case 1:
      return multiply_row(p, row, lane);
    case 2:
      return multiply_block<2>(p, row, lane);
    case 3:
      return multiply_block<3>(p, row, lane);
    case 4:
      return multiply_block<4>(p, row, lane);
    case 5:
      return multiply_block<5>(p, row, lane);
    default:
      return;
  }
}

}  // namespace

void multiply(const Product* product) {
  const Product p = *product;
  for (int64_t lane = 0; lane < PANEL; lane += COLUMNS * FLOATS) {
    int64_t row = 0;
    for (; row + ROWS <= p.m; row += ROWS) multiply_block<ROWS>(p, row, lane);
    multiply_rest(p, row, lane);
  }
}

namespace {

typedef float Four __attribute__((vector_size(16)));

inline Four load_four(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

// Four lanes of four rows.
inline void transpose_four(const float* from, float* to, int64_t to_row) {
  const Four a = load_four(from), b = load_four(from + PANEL), c = load_four(from + 2 * PANEL), d = load_four(from + 3 * PANEL);
  Four lanes[4];
#pragma GCC unroll 4
  for (int lane = 0; lane < 4; ++lane) lanes[lane] = Four{a[lane], b[lane], c[lane], d[lane]};
  for (int lane = 0; lane < 4; ++lane) std::memcpy(to + lane * to_row, &lanes[lane], sizeof lanes[lane]);
}

}  // namespace

void transpose(const float* from, int64_t m, int64_t lanes, float* to, int64_t to_row) {
  int64_t lane = 0;
  for (; lane + 4 <= lanes; lane += 4) {
    int64_t row = 0;
    for (; row + 4 <= m; row += 4) transpose_four(from + row * PANEL + lane, to + lane * to_row + row, to_row);
    for (; row < m; ++row)
      for (int i = 0; i < 4; ++i) to[(lane + i) * to_row + row] = from[row * PANEL + lane + i];
  }
  for (; lane < lanes; ++lane)
    for (int64_t row = 0; row < m; ++row) to[lane * to_row + row] = from[row * PANEL + lane];
}

namespace {

template <int MANY>
inline void correlate_block(float* y, const float* const* sources, const float* weights, int64_t taps, int64_t at, int accumulate) {
  Floats sum[MANY] = {};
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float* source = sources[tap] + at;
    const float weight = weights[tap];
#pragma GCC unroll 4
    for (int i = 0; i < MANY; ++i) sum[i] += weight * load(source + i * FLOATS);
  }
#pragma GCC unroll 4
  for (int i = 0; i < MANY; ++i) {
    float* to = y + at + i * FLOATS;
    store(to, accumulate ? load(to) + sum[i] : sum[i]);
  }
}

}  // namespace

void correlate(float* y, int64_t count, const float* const* sources, const float* weights, int64_t taps, int accumulate) {
  int64_t at = 0;
  for (; at + 4 * FLOATS <= count; at += 4 * FLOATS) correlate_block<4>(y, sources, weights, taps, at, accumulate);
  for (; at + FLOATS <= count; at += FLOATS) correlate_block<1>(y, sources, weights, taps, at, accumulate);
  for (; at < count; ++at) {
    float sum = 0;
    for (int64_t tap = 0; tap < taps; ++tap) sum += weights[tap] * sources[tap][at];
    y[at] = accumulate ? y[at] + sum : sum;
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
