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

template <int MANY>
void multiply_block(const Product& p, int64_t row, int64_t lane) {
  const float* x = p.x + row * p.x_row;
  const float* tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[MANY][COLUMNS] = {};
  for (int64_t k = 0; k < p.k; ++k, tile += p.tile_step, x += p.x_step) {
    Floats weight[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) weight[c] = load(tile + c * FLOATS);
#pragma GCC unroll 6
    for (int m = 0; m < MANY; ++m) {
      const float value = x[m * p.x_row];
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

void multiply_rest(const Product& p, int64_t row, int64_t lane) {
  switch (p.m - row) {
    case 1:
      return multiply_block<1>(p, row, lane);
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
