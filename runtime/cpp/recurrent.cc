#include "recurrent.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace onnx_compress {
namespace {

// Steps of a tile, which is read once: it stays in the first-level cache.
constexpr int64_t STEPS = 32;
// Beyond, a level is not found again from value and scale to the bit.
constexpr float LEAST_SCALE = 1e-30f, LARGEST_SCALE = 1e30f;

}  // namespace

RecurrentMatrix::RecurrentMatrix(const Run& run, const Weight& weight, int64_t gates, std::atomic<bool>& wide)
    : kernels_(weight.kernels()), extent_{0, 0, weight.member().batch, weight.member().k, gates} {
  const int64_t count = panels() * extent_.hidden * PANEL_ROWS;
  if (!wide && read_scales(weight)) {
    levels_ = reinterpret_cast<int8_t*>(buffer_.floats(count / static_cast<int64_t>(sizeof(float))));
    if (decode(run, weight)) return;
    wide = true, levels_ = nullptr;
  }
  values_ = buffer_.floats(count);
  if (extent_.hidden % PANEL_ROWS) std::memset(values_, 0, static_cast<size_t>(count) * sizeof(float));
  decode(run, weight);
  offsets_.resize(static_cast<size_t>(extent_.hidden));
  std::iota(offsets_.begin(), offsets_.end(), 0);
}

// False where there is not one scale a row, or it is not the last factor of the values.
bool RecurrentMatrix::read_scales(const Weight& weight) {
  const Member& member = weight.member();
  if (member.form != FORM_GRID || weight.rounds() || member.block || member.column_scale.count || extent_.hidden % PANEL_ROWS) return false;
  for (int64_t row = 0; row < member.batch * member.rows; ++row) {
    scales_.push_back(member.scale.at(member.scale.count == 1 ? 0 : static_cast<uint64_t>(row)));
    inverses_.push_back(1.0f / scales_.back());
    if (!(std::fabs(scales_.back()) > LEAST_SCALE && std::fabs(scales_.back()) < LARGEST_SCALE)) return false;
  }
  return true;
}

bool RecurrentMatrix::decode(const Run& run, const Weight& weight) {
  std::atomic<bool> fits{true};
  run.parallel(weight.pieces(), [&](int64_t piece) {
    TileSource source(weight, piece);
    for (Tile tile; fits && source.next(tile, {tile_memory(), TILE_FLOATS, STEPS});)
      if (!place(tile)) fits = false;
  });
  return fits;
}

// Lanes of a tile that lie side by side in a panel of ours go together.
bool RecurrentMatrix::place(const Tile& tile) {
  const int64_t steps = tile.last - tile.first;
  for (int64_t lane = 0, many; lane < tile.lanes; lane += many) {
    const int64_t row = tile.row + lane, gate = row / extent_.hidden, unit = row % extent_.hidden, into = unit % PANEL_ROWS;
    many = std::min({tile.lanes - lane, extent_.hidden - unit, PANEL_ROWS - into, PANEL_ROWS - lane % PANEL_ROWS});
    const int64_t number = panel(tile.batch, gate, unit / PANEL_ROWS), to = (number * extent_.hidden + tile.first) * PANEL_ROWS + into;
    const float* from = tile.lane(lane);
    if (levels_) {
      const LevelPack pack = {from, inverses_.data() + number * PANEL_ROWS, steps, levels_ + to};
      if (kernels_.pack_levels(&pack)) return false;
      continue;
    }
    for (int64_t step = 0; step < steps; ++step)
      std::memcpy(values_ + to + step * PANEL_ROWS, from + step * PANEL_ROWS, static_cast<size_t>(many) * sizeof(float));
  }
  return true;
}

void RecurrentMatrix::multiply(int64_t direction, int64_t gate, int64_t block, const RecurrentProduct& product) const {
  const int64_t number = panel(direction, gate, block), at = number * extent_.hidden * PANEL_ROWS;
  if (levels_) {
    const LevelProduct levels = {product.x, product.m, extent_.hidden, levels_ + at, scales_.data() + number * PANEL_ROWS, product.y};
    return kernels_.multiply_levels(&levels);
  }
  const Product floats = {product.x, offsets_.data(), product.m, extent_.hidden, values_ + at, PANEL_ROWS,
                          product.y, PANEL_ROWS,      0,         nullptr};
  kernels_.multiply(&floats);
}

}  // namespace onnx_compress
