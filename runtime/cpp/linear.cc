#include "linear.h"

#include <algorithm>

#include "share.h"

namespace onnx_compress {
namespace {

// Few rows of x read a tile once, while it is in the first-level cache; many read it again and again, so many steps at once.
constexpr int64_t FEW_ROWS = 12, FEW_STEPS = 32, MANY_STEPS = 128;

// Rows of a job, and a panel of a tile from `lane` on.
struct Block {
  const LinearJob& job;
  int64_t first, last, lane;
};

class Linear {
 public:
  Linear(const Weight& weight, const std::vector<LinearJob>& jobs, LinearStrides strides, const Tail& tail)
      : member_(weight.member()), strides_(strides), tail_(tail), m_(jobs.empty() ? 0 : jobs[0].m), few_(m_ <= FEW_ROWS) {
    by_batch_.resize(static_cast<size_t>(member_.batch));
    for (const LinearJob& job : jobs) by_batch_[static_cast<size_t>(job.batch)].push_back(&job);
    for (int64_t k = 0; k < MANY_STEPS; ++k) offsets_[k] = k * strides.step;
    rows_ = part_rows(std::max<int64_t>(m_, 1), MANY_STEPS * PANEL_ROWS);
  }

  TileWork work(size_t jobs) const {
    return {static_cast<int64_t>(jobs) * m_ * member_.rows * member_.k, few_ ? FEW_STEPS : MANY_STEPS, 0,
            [this](const Tile& tile) { return few_ ? 1 : blocks(tile); },
            [this](const Tile& tile, int64_t block, float*) {
              for (int64_t i = block; i < (few_ ? blocks(tile) : block + 1); ++i) multiply(tile, block_of(tile, i));
            }};
  }

 private:
  const std::vector<const LinearJob*>& jobs_of(const Tile& tile) const { return by_batch_[static_cast<size_t>(tile.batch)]; }
  int64_t parts() const { return (m_ + rows_ - 1) / rows_; }
  int64_t panels(const Tile& tile) const { return (tile.lanes + PANEL_ROWS - 1) / PANEL_ROWS; }
  int64_t blocks(const Tile& tile) const { return static_cast<int64_t>(jobs_of(tile).size()) * panels(tile) * parts(); }

  Block block_of(const Tile& tile, int64_t index) const {
    const int64_t first = index % parts() * rows_, panel = index / parts() % panels(tile);
    return {*jobs_of(tile)[static_cast<size_t>(index / parts() / panels(tile))], first, std::min(m_, first + rows_), panel * PANEL_ROWS};
  }

  void multiply(const Tile& tile, const Block& block) const {
    multiply_lanes(tile, block);
    const int64_t row = tile.row + block.lane, end = std::min(tile.row + tile.lanes, row + PANEL_ROWS);
    if (tile.last == member_.k) tail_(block.job, block.first, block.last, row, end);
  }

  // The last panel of a weight may have fewer than 64 lanes, and y has no room for more: it is multiplied into memory of its own.
  void multiply_lanes(const Tile& tile, const Block& block) const {
    const float* x[PART_ROWS];
    alignas(64) float apart[PART_ROWS * PANEL_ROWS];
    const int64_t m = block.last - block.first, lanes = std::min(PANEL_ROWS, tile.lanes - block.lane), rows = member_.rows;
    for (int64_t row = 0; row < m; ++row) x[row] = block.job.x + (block.first + row) * strides_.row + tile.first * strides_.step;
    float* y = block.job.y + block.first * rows + tile.row + block.lane;
    const bool whole = lanes == PANEL_ROWS;
    const Product product = {x,
                             offsets_,
                             m,
                             tile.last - tile.first,
                             tile.lane(block.lane),
                             lanes,
                             whole ? y : apart,
                             whole ? rows : PANEL_ROWS,
                             whole && tile.first > 0,
                             tile.next(block.lane)};
    tile.kernels->multiply(&product);
    for (int64_t row = 0; !whole && row < m; ++row)
      for (int64_t i = 0; i < lanes; ++i) {
        float& to = y[row * rows + i];
        to = apart[row * PANEL_ROWS + i] + (tile.first > 0 ? to : 0.0f);
      }
  }

  const Member& member_;
  LinearStrides strides_;
  const Tail& tail_;
  int64_t m_, rows_;
  bool few_;
  std::vector<std::vector<const LinearJob*>> by_batch_;
  int64_t offsets_[MANY_STEPS];
};

}  // namespace

void multiply_weight(const Run& run, const Weight& weight, const std::vector<LinearJob>& jobs, LinearStrides strides, const Tail& tail) {
  // One row for each batch of the weight, in the order of its batches.
  if (jobs.size() == static_cast<size_t>(weight.member().batch) && jobs[0].m == 1 && strides.step == 1 && weight.multiplies())
    return run.parallel(weight.pieces(), [&](int64_t piece) {
      const LinearJob& job = jobs[static_cast<size_t>(piece / weight.pieces_per_batch())];
      TileSource(weight, piece).multiply(job.x, job.y);
      tail(job, 0, 1, weight.piece_row(piece), weight.piece_end(piece));
    });
  const Linear linear(weight, jobs, strides, tail);
  share_tiles(run, weight, linear.work(jobs.size()));
}

}  // namespace onnx_compress
