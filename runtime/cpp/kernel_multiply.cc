// Multiplying with a decoded tile, which is already the packed panel of a micro-kernel. Compiled for several instruction sets.
#include "kernels.h"
#include "parts.h"
#include "vector_math.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

// Columns of vectors that are multiplied at once, and for each number of them the rows: rows x columns sums, the columns and one of x must
// fit the registers, 32 of them with AVX-512 and on ARM, else 16; and each row has a pointer.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int COLUMNS = 4;
constexpr int rows_of(int columns) { return columns == 4 ? 6 : columns == 3 ? 8 : 12; }
#else
constexpr int COLUMNS = 2;
constexpr int rows_of(int columns) { return columns == 2 ? 6 : 12; }
#endif

constexpr int LINE_FLOATS = 16;
// Rows of x may be neighbours: so many floats behind the last one is what rows read that come soon.
constexpr int SOON = 12;

// MANY rows of x with COLS vectors of lanes from `lane` on; each step asks for LINES of the cache, from `next` on.
template <int MANY, int COLS, int LINES>
void multiply_block(const Product& p, int64_t row, int64_t lane, const float* next) {
  const float* x[MANY];
  for (int m = 0; m < MANY; ++m) x[m] = p.x[row + m];
  const float* tile = p.tile + lane;
  float* y = p.y + row * p.y_row + lane;
  Floats sum[MANY][COLS] = {};
  for (int64_t k = 0; k < p.k; ++k, tile += PANEL) {
    const int64_t offset = p.offsets[k];
    if constexpr (COLS * FLOATS == PANEL) __builtin_prefetch(x[MANY - 1] + offset + SOON, 0, 2);
    for (int i = 0; i < LINES; ++i, next += LINE_FLOATS) __builtin_prefetch(next, 0, 2);
    Floats weight[COLS];
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) weight[c] = load_some(tile + c * FLOATS, FLOATS);
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
      store_some(to, p.accumulate ? load_some(to, FLOATS) + sum[m][c] : sum[m][c], FLOATS);
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
      for (int c = 0; c < COLS; ++c) sum[i][c] += value * load_some(tile + i * PANEL + c * FLOATS, FLOATS);
    }
  for (; k < p.k; ++k, tile += PANEL)
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) sum[0][c] += x[p.offsets[k]] * load_some(tile + c * FLOATS, FLOATS);
#pragma GCC unroll 4
  for (int c = 0; c < COLS; ++c) {
    const Floats all = (sum[0][c] + sum[1][c]) + (sum[2][c] + sum[3][c]);
    store_some(y + c * FLOATS, p.accumulate ? load_some(y + c * FLOATS, FLOATS) + all : all, FLOATS);
  }
}

}  // namespace

// What is multiplied next is asked for by so many blocks of rows, where these have whole panels: one alone would wait for it.
constexpr int FETCHING = 4, FETCHED_LINES = PANEL / LINE_FLOATS / FETCHING;

void multiply(const Product* product) {
  const Product& p = *product;  // no copy: its vectors would wait until the fields that were just written have left the processor
  const int64_t columns = (p.lanes + FLOATS - 1) / FLOATS;
  for (int64_t column = 0; column < columns; column += COLUMNS)
    with_number<COLUMNS>(columns - column < COLUMNS ? columns - column : COLUMNS, [&](auto cols) {
      constexpr int COLS = decltype(cols)::value;
      int64_t fetching = p.next && COLS * FLOATS == PANEL ? FETCHING : 0;
      in_parts<rows_of(COLS)>(p.m, [&](int64_t row, int64_t end) {
        with_number<rows_of(COLS)>(end - row, [&](auto many) {
          constexpr int MANY = decltype(many)::value;
          if constexpr (MANY == 1) {
            multiply_row<COLS>(p, row, column * FLOATS);
          } else if (fetching == 0) {
            multiply_block<MANY, COLS, 0>(p, row, column * FLOATS, nullptr);
          } else {
            multiply_block<MANY, COLS, FETCHED_LINES>(p, row, column * FLOATS, p.next + --fetching * p.k * FETCHED_LINES * LINE_FLOATS);
          }
        });
      });
    });
}

namespace {

// MANY outputs with COLS vectors of positions from `first` on; the last vector has `last` of them. FETCH asks for the neighbours behind
// them, for where the sums go, and for what is multiplied next.
template <int MANY, int COLS, bool FETCH>
void multiply_positions_block(const PositionProduct& p, int64_t output, int64_t first, int64_t last) {
  const float *from = p.x + first, *tile = p.tile + output, *next = (p.next ? p.next : p.tile) + output;
  Floats sum[MANY][COLS] = {};
  for (int m = 0; FETCH && m < MANY; ++m)
    for (int c = 0; c < COLS; ++c) __builtin_prefetch(p.y + (output + m) * p.y_row + first + c * FLOATS, 1);
  for (int64_t k = 0; k < p.k; ++k, tile += PANEL, next += PANEL) {
    const float* x = from + p.offsets[k];
    if constexpr (FETCH) __builtin_prefetch(next, 0, 2);
    Floats values[COLS];
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) {
      values[c] = load_some(x + c * FLOATS, c + 1 < COLS ? FLOATS : last);
      if constexpr (FETCH) __builtin_prefetch(x + (COLS + c) * FLOATS, 0, 2);
    }
#pragma GCC unroll 12
    for (int m = 0; m < MANY; ++m)
#pragma GCC unroll 4
      for (int c = 0; c < COLS; ++c) sum[m][c] += tile[m] * values[c];
  }
  const Finish finish = p.finish;
  const Floats low = all(finish.low), high = all(finish.high);
#pragma GCC unroll 12
  for (int m = 0; m < MANY; ++m) {
    const int64_t offset = (output + m) * p.y_row + first;
    const Floats bias = all(finish.biases ? finish.biases[output + m] : 0.0f);
#pragma GCC unroll 4
    for (int c = 0; c < COLS; ++c) {
      const int64_t at = offset + c * FLOATS, count = c + 1 < COLS ? FLOATS : last;
      Floats value = sum[m][c] + bias;
      if (p.accumulate) value += load_some(p.y + at, count);
      if (finish.residual) value += load_some(finish.residual + at, count);
      store_some(p.y + at, clamp(value, low, high), count);
    }
  }
}

// Steps at a time, at most: the same of a panel and of x stay in the first-level cache until all outputs have read them.
constexpr int64_t STEPS = 96;
// Vectors of positions at a time, fewer than fit: more outputs then read each of them.
constexpr int MOST_VECTORS = COLUMNS == 4 ? 3 : COLUMNS;

void multiply_some_steps(const PositionProduct& p) {
  in_parts<MOST_VECTORS>((p.count + FLOATS - 1) / FLOATS, [&](int64_t column, int64_t end) {
    const int64_t first = column * FLOATS, left = p.count - (end - 1) * FLOATS;
    with_number<MOST_VECTORS>(end - column, [&](auto cols) {
      constexpr int COLS = decltype(cols)::value;
      in_parts<rows_of(COLS)>(p.outputs, [&](int64_t output, int64_t last) {
        with_number<rows_of(COLS)>(last - output, [&](auto many) {
          constexpr int MANY = decltype(many)::value;
          const auto block = !p.next && !p.apart ? multiply_positions_block<MANY, COLS, false> : multiply_positions_block<MANY, COLS, true>;
          block(p, output, first, left < FLOATS ? left : FLOATS);
        });
      });
    });
  });
}

}  // namespace

void multiply_positions(const PositionProduct* product) {
  const int64_t parts = (product->k + STEPS - 1) / STEPS;
  for (int64_t part = 0; part < parts; ++part) {
    PositionProduct p = *product;
    const int64_t first = product->k * part / parts, end = product->k * (part + 1) / parts;
    const bool last = end == product->k;
    p.offsets += first, p.tile += first * PANEL, p.accumulate |= first > 0, p.k = end - first;
    if (!last) p.finish = UNFINISHED;
    if (!last && p.next) p.next = p.tile + p.k * PANEL;
    multiply_some_steps(p);
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
