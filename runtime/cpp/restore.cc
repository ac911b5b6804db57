#include "restore.h"

#include "planes.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace onnx_compress {
namespace {

// Where the value [batch, row, k] of a view stands in the tensor. "w of shape dims is seen as transpose(w, permutation).reshape(batch,
// rows, k)"
class Places {
 public:
  explicit Places(const Member& member) {
    const size_t rank = member.dims.size();
    std::vector<int64_t> strides(rank, 1);
    for (size_t axis = rank; axis-- > 1;) strides[axis - 1] = strides[axis] * member.dims[axis];
    for (const int axis : member.permutation) {
      dims_.push_back(member.dims[static_cast<size_t>(axis)]);
      strides_.push_back(strides[static_cast<size_t>(axis)]);
    }
    // If k is a product of whole axes, a place is the sum of one for the row and one for k.
    int64_t inner = 1;
    size_t axis = rank;
    while (axis > 0 && inner < member.k) inner *= dims_[--axis];
    if (inner != member.k) return;
    columns_.resize(static_cast<size_t>(member.k));
    for (int64_t k = 0; k < member.k; ++k) columns_[static_cast<size_t>(k)] = of(k);
  }

  // Of a flat index into the view.
  int64_t of(int64_t flat) const {
    int64_t place = 0;
    for (size_t axis = dims_.size(); axis-- > 0; flat /= dims_[axis]) place += flat % dims_[axis] * strides_[axis];
    return place;
  }

  const std::vector<int64_t>& columns() const { return columns_; }

 private:
  std::vector<int64_t> dims_, strides_, columns_;
};

void store_tile(const Member& member, const Places& places, const Tile& tile, int type, void* out) {
  for (int64_t lane = 0; lane < tile.lanes; ++lane) {
    const float* values = tile.lane(lane);
    const int64_t row = (tile.batch * member.rows + tile.row + lane) * member.k;
    if (places.columns().empty()) {
      for (int64_t k = tile.first; k < tile.last; ++k)
        store_elements(values + (k - tile.first) * PANEL_ROWS, 0, 1, type, out, places.of(row + k));
      continue;
    }
    const int64_t place = places.of(row);
    const int64_t* columns = places.columns().data();
    if (columns[member.k - 1] == member.k - 1) {
      store_elements(values, PANEL_ROWS, tile.last - tile.first, type, out, place + tile.first);
      continue;
    }
    for (int64_t k = tile.first; k < tile.last; ++k)
      store_elements(values + (k - tile.first) * PANEL_ROWS, 0, 1, type, out, place + columns[k]);
  }
}

// The lanes of a tile are neighbours in the tensor: [k, rows] with the rows innermost.
bool lanes_are_neighbours(const Member& member, const Places& places, const Tile& tile) {
  const int64_t row = tile.batch * member.rows + tile.row, first = places.of(row * member.k);
  if (places.columns().empty()) return false;
  for (int64_t lane = 1; lane < tile.lanes; ++lane)
    if (places.of((row + lane) * member.k) != first + lane) return false;
  return true;
}

constexpr int64_t AHEAD_STEPS = 8;

// The exact bits of a tile of a Planes weight whose lanes are neighbours: step by step, so that what is written is in one place as far as
// the lanes reach. Places of later steps are fetched ahead, since a store waits for its line.
void store_lines(const Member& member, const Places& places, const Tile& tile, uint8_t* to) {
  const int64_t bytes = element_bytes(member.dtype), panels = (tile.lanes + PANEL_ROWS - 1) / PANEL_ROWS;
  const int64_t first = places.of((tile.batch * member.rows + tile.row) * member.k);
  const auto place = [&](int64_t step) { return to + (first + places.columns()[static_cast<size_t>(step)]) * bytes; };
  for (int64_t step = 0; step < tile.last - tile.first; ++step) {
    uint8_t* line = place(tile.first + step);
    const uint8_t* later = place(std::min(tile.first + step + AHEAD_STEPS, member.k - 1));
    for (int64_t at = 0; at < tile.lanes * bytes; at += 64) __builtin_prefetch(later + at, 1);
    for (int64_t panel = 0; panel < panels; ++panel)
      std::memcpy(line + panel * PANEL_ROWS * bytes, panel_words(tile, panel, bytes) + step * PANEL_ROWS * bytes,
                  static_cast<size_t>(std::min(PANEL_ROWS, tile.lanes - panel * PANEL_ROWS) * bytes));
  }
}

// The exact bits of one panel of a Planes weight.
void store_panel_words(const Member& member, const Places& places, const Tile& tile, int64_t panel, uint8_t* to) {
  const int64_t bytes = element_bytes(member.dtype), steps = tile.last - tile.first;
  const int64_t row = tile.batch * member.rows + tile.row + panel * PANEL_ROWS,
                lanes = std::min(PANEL_ROWS, tile.lanes - panel * PANEL_ROWS);
  const uint8_t* from = panel_words(tile, panel, bytes);
  const std::vector<int64_t>& columns = places.columns();
  if (!columns.empty() && columns.back() == member.k - 1) {  // ascending, so every step is where the one before ends
    int64_t first[PANEL_ROWS];
    for (int64_t lane = 0; lane < lanes; ++lane) first[lane] = (places.of((row + lane) * member.k) + tile.first) * bytes;
    const Turn turn{from, steps, lanes, bytes, to, first};
    tile.kernels->turn_words(&turn);
    return;
  }
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t step = 0; step < steps; ++step)
      std::memcpy(to + places.of((row + lane) * member.k + tile.first + step) * bytes, from + (step * PANEL_ROWS + lane) * bytes,
                  static_cast<size_t>(bytes));
}

void store_words(const Member& member, const Places& places, const Tile& tile, void* out) {
  if (lanes_are_neighbours(member, places, tile)) return store_lines(member, places, tile, static_cast<uint8_t*>(out));
  for (int64_t panel = 0; panel * PANEL_ROWS < tile.lanes; ++panel)
    store_panel_words(member, places, tile, panel, static_cast<uint8_t*>(out));
}

void restore_words(const Weight& weight, void* out, const Parallel& parallel) {
  const Places places(weight.member());
  parallel(weight.pieces(), [&](int64_t piece) {
    PlanesSource source(weight, piece, false);
    for (Tile tile; source.next(tile, {tile_memory()});) store_words(weight.member(), places, tile, out);
  });
}

}  // namespace

void restore(const Weight& weight, int type, void* out, const Parallel& parallel) {
  if (wants_words(weight.member(), type)) return restore_words(weight, out, parallel);
  const Places places(weight.member());
  parallel(weight.pieces(), [&](int64_t piece) {
    TileSource source(weight, piece);
    for (Tile tile; source.next(tile, {tile_memory()});) store_tile(weight.member(), places, tile, type, out);
  });
}

void pack_halves(const uint8_t* values, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; i += 2)
    out[i / 2] = static_cast<uint8_t>((values[i] & 15) | (i + 1 < count ? (values[i + 1] & 15) << 4 : 0));
}

}  // namespace onnx_compress
