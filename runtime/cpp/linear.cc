#include "linear.h"

#include <algorithm>
#include <cstring>

namespace onnx_compress {
namespace {

struct Slice {
  const LinearJob* job;
  int64_t first, last;  // rows of m
};

// The last panel of a weight may have fewer than 64 lanes, and y has no room for more: it is multiplied into a block of its own.
void multiply_ragged(const Kernels& kernels, Product product, int64_t lanes) {
  constexpr int64_t MANY = 48;
  alignas(64) float block[MANY * PANEL_ROWS];
  float* y = product.y;
  const int64_t m = product.m, y_row = product.y_row;
  const bool accumulate = product.accumulate;
  product.accumulate = 0, product.y = block, product.y_row = PANEL_ROWS;
  for (int64_t first = 0; first < m; first += MANY) {
    product.m = std::min(MANY, m - first);
    kernels.multiply(&product);
    for (int64_t row = 0; row < product.m; ++row)
      for (int64_t lane = 0; lane < lanes; ++lane) {
        float& to = y[(first + row) * y_row + lane];
        to = block[row * PANEL_ROWS + lane] + (accumulate ? to : 0.0f);
      }
    product.x += product.m * product.x_row;
  }
}

void multiply_tile(const Tile& tile, const Slice& slice, LinearStrides strides, int64_t rows) {
  const LinearJob& job = *slice.job;
  for (int64_t lane = 0; lane < tile.lanes; lane += PANEL_ROWS) {
    Product product;
    product.x = job.x + slice.first * strides.row + tile.first * strides.step;
    product.x_row = strides.row, product.x_step = strides.step;
    product.m = slice.last - slice.first, product.k = tile.last - tile.first;
    product.tile = tile.values + lane, product.tile_step = tile.stride;
    product.y = job.y + slice.first * rows + tile.row + lane, product.y_row = rows;
    product.accumulate = tile.first > 0;
    const int64_t lanes = std::min(PANEL_ROWS, tile.lanes - lane);
    lanes == PANEL_ROWS ? tile.kernels->multiply(&product) : multiply_ragged(*tile.kernels, product, lanes);
  }
}

// Rows of m are split between threads only where multiplying costs far more than the decoding that each of them repeats.
constexpr int64_t SPLIT_ROWS = 384;

}  // namespace

void multiply_weight(const Run& run, const Weight& weight, const std::vector<LinearJob>& jobs, LinearStrides strides, const Tail& tail) {
  const Member& member = weight.member();
  int64_t longest = 0;
  for (const LinearJob& job : jobs) longest = std::max(longest, job.m);
  const int64_t splits = std::clamp<int64_t>(longest / SPLIT_ROWS, 1, 8);
  run.parallel(weight.pieces() * splits, [&](int64_t index) {
    const int64_t piece = index / splits, split = index % splits, batch = piece / weight.pieces_per_batch();
    std::vector<Slice> slices;
    for (const LinearJob& job : jobs)
      if (job.batch == batch) slices.push_back({&job, job.m * split / splits, job.m * (split + 1) / splits});
    if (slices.empty()) return;
    TileSource source(weight, piece, tile_memory());
    for (Tile tile; source.next(tile);)
      for (const Slice& slice : slices) {
        multiply_tile(tile, slice, strides, member.rows);
        if (tile.last == member.k) tail(*slice.job, slice.first, slice.last, tile.row, tile.row + tile.lanes);
      }
  });
}

}  // namespace onnx_compress
