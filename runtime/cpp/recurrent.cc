#include "recurrent.h"

#include <algorithm>
#include <cstring>

namespace onnx_compress {

// Steps of a tile, which is read once: it stays in the first-level cache.
constexpr int64_t STEPS = 32;

RecurrentMatrix::RecurrentMatrix(const Run& run, const Weight& weight, int64_t gates)
    : extent_{0, 0, weight.member().batch, weight.member().k, gates} {
  const int64_t count = extent_.directions * gates * extent_.blocks() * extent_.hidden * PANEL_ROWS;
  values_ = buffer_.floats(count);
  if (extent_.hidden % PANEL_ROWS) std::memset(values_, 0, static_cast<size_t>(count) * sizeof(float));
  run.parallel(weight.pieces(), [&](int64_t piece) {
    TileSource source(weight, piece, tile_memory());
    for (Tile tile; source.next(tile, STEPS);) place(tile);
  });
}

const float* RecurrentMatrix::panel(int64_t direction, int64_t gate, int64_t block) const {
  return values_ + ((direction * extent_.gates + gate) * extent_.blocks() + block) * extent_.hidden * PANEL_ROWS;
}

// Lanes of a tile that lie side by side in a panel of ours go together.
void RecurrentMatrix::place(const Tile& tile) {
  for (int64_t lane = 0, many; lane < tile.lanes; lane += many) {
    const int64_t row = tile.row + lane, gate = row / extent_.hidden, unit = row % extent_.hidden;
    many = std::min({tile.lanes - lane, extent_.hidden - unit, PANEL_ROWS - unit % PANEL_ROWS, PANEL_ROWS - lane % PANEL_ROWS});
    float* to = values_ + (panel(tile.batch, gate, unit / PANEL_ROWS) - values_) + tile.first * PANEL_ROWS + unit % PANEL_ROWS;
    const float* from = tile.lane(lane);
    for (int64_t k = tile.first; k < tile.last; ++k, to += PANEL_ROWS, from += PANEL_ROWS)
      std::memcpy(to, from, static_cast<size_t>(many) * sizeof(float));
  }
}

}  // namespace onnx_compress
