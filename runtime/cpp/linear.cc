#include "linear.h"

#include <algorithm>

namespace onnx_compress {
namespace {

struct Slice {
  const LinearJob* job;
  int64_t first, last;  // rows of m
};

// The rows of x that one call of a micro-kernel sees, and where their steps are.
constexpr int64_t ROWS_AT_ONCE = 96;

// Multiplies rows `first` to `last` of a job with the panel from `lane` on. The last panel of a weight may have fewer than 64 lanes, and y
// has no room for more: it is multiplied into a block of its own.
void multiply_panel(const Tile& tile, const Slice& slice, const int64_t* offsets, LinearStrides strides, int64_t rows, int64_t lane) {
  const float* x[ROWS_AT_ONCE];
  alignas(64) float block[ROWS_AT_ONCE * PANEL_ROWS];
  const int64_t lanes = std::min(PANEL_ROWS, tile.lanes - lane);
  for (int64_t first = slice.first; first < slice.last; first += ROWS_AT_ONCE) {
    const int64_t m = std::min(ROWS_AT_ONCE, slice.last - first);
    for (int64_t row = 0; row < m; ++row) x[row] = slice.job->x + (first + row) * strides.row + tile.first * strides.step;
    float* y = slice.job->y + first * rows + tile.row + lane;
    const bool whole = lanes == PANEL_ROWS;
    const Product product = {x,
                             offsets,
                             m,
                             tile.last - tile.first,
                             tile.lane(lane),
                             lanes,
                             whole ? y : block,
                             whole ? rows : PANEL_ROWS,
                             whole && tile.first > 0};
    tile.kernels->multiply(&product);
    for (int64_t row = 0; !whole && row < m; ++row)
      for (int64_t i = 0; i < lanes; ++i) {
        float& to = y[row * rows + i];
        to = block[row * PANEL_ROWS + i] + (tile.first > 0 ? to : 0.0f);
      }
  }
}

// Rows of m are split between threads only where multiplying costs far more than the decoding that each of them repeats.
constexpr int64_t SPLIT_ROWS = 384;
// Steps of a tile: few rows of x read it once, from the first-level cache; many read it again and again.
constexpr int64_t FEW_ROWS = 12, FEW_STEPS = 32, MANY_STEPS = 128;

}  // namespace

void multiply_weight(const Run& run, const Weight& weight, const std::vector<LinearJob>& jobs, LinearStrides strides, const Tail& tail) {
  const Member& member = weight.member();
  int64_t longest = 0;
  for (const LinearJob& job : jobs) longest = std::max(longest, job.m);
  const int64_t splits = std::clamp<int64_t>(longest / SPLIT_ROWS, 1, 8);
  const int64_t steps = longest <= FEW_ROWS ? FEW_STEPS : MANY_STEPS;
  int64_t offsets[MANY_STEPS];
  for (int64_t k = 0; k < steps; ++k) offsets[k] = k * strides.step;
  run.parallel(weight.pieces() * splits, [&](int64_t index) {
    const int64_t piece = index / splits, split = index % splits, batch = piece / weight.pieces_per_batch();
    std::vector<Slice> slices;
    for (const LinearJob& job : jobs)
      if (job.batch == batch) slices.push_back({&job, job.m * split / splits, job.m * (split + 1) / splits});
    if (slices.empty()) return;
    TileSource source(weight, piece, tile_memory());
    if (slices.size() == 1 && longest == 1 && strides.step == 1 && weight.multiplies()) {
      const LinearJob& job = *slices[0].job;
      source.multiply(job.x, job.y);
      tail(job, 0, 1, weight.piece_row(piece), weight.piece_end(piece));
      return;
    }
    for (Tile tile; source.next(tile, steps);)
      for (const Slice& slice : slices) {
        for (int64_t lane = 0; lane < tile.lanes; lane += PANEL_ROWS) multiply_panel(tile, slice, offsets, strides, member.rows, lane);
        if (tile.last == member.k) tail(*slice.job, slice.first, slice.last, tile.row, tile.row + tile.lanes);
      }
  });
}

}  // namespace onnx_compress
