#include "restore.h"

#include "planes.h"

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
    const float* values = tile.values + lane;
    const int64_t row = (tile.batch * member.rows + tile.row + lane) * member.k;
    if (places.columns().empty()) {
      for (int64_t k = tile.first; k < tile.last; ++k)
        store_elements(values + (k - tile.first) * tile.stride, 0, 1, type, out, places.of(row + k));
      continue;
    }
    const int64_t place = places.of(row);
    const int64_t* columns = places.columns().data();
    if (columns[member.k - 1] == member.k - 1) {
      store_elements(values, tile.stride, tile.last - tile.first, type, out, place + tile.first);
      continue;
    }
    for (int64_t k = tile.first; k < tile.last; ++k)
      store_elements(values + (k - tile.first) * tile.stride, 0, 1, type, out, place + columns[k]);
  }
}

// A step's lanes are neighbours in the tensor: [k, rows] with the rows innermost.
bool lanes_are_neighbours(const Member& member, const Places& places, const Tile& tile) {
  const int64_t row = tile.batch * member.rows + tile.row, first = places.of(row * member.k);
  if (places.columns().empty()) return false;
  for (int64_t lane = 1; lane < tile.lanes; ++lane)
    if (places.of((row + lane) * member.k) != first + lane) return false;
  return true;
}

// The exact bits of a Planes weight.
void store_words(const Member& member, const Places& places, const Tile& tile, void* out) {
  const int64_t bytes = element_bytes(member.dtype), steps = tile.last - tile.first, row = tile.batch * member.rows + tile.row;
  const uint8_t* from = reinterpret_cast<const uint8_t*>(tile.values);
  uint8_t* to = static_cast<uint8_t*>(out);
  const std::vector<int64_t>& columns = places.columns();
  if (lanes_are_neighbours(member, places, tile)) {
    const int64_t first = places.of(row * member.k);
    for (int64_t k = tile.first; k < tile.last; ++k)
      std::memcpy(to + (first + columns[static_cast<size_t>(k)]) * bytes, from + (k - tile.first) * tile.stride * bytes,
                  static_cast<size_t>(tile.lanes * bytes));
    return;
  }
  if (!columns.empty() && columns.back() == member.k - 1) {  // ascending, so every step is where the one before ends
    std::vector<int64_t> first(static_cast<size_t>(tile.lanes));
    for (int64_t lane = 0; lane < tile.lanes; ++lane)
      first[static_cast<size_t>(lane)] = (places.of((row + lane) * member.k) + tile.first) * bytes;
    const Transposition job{from, tile.stride, steps, tile.lanes, bytes, to, first.data()};
    kernels().transpose(&job);
    return;
  }
  for (int64_t lane = 0; lane < tile.lanes; ++lane)
    for (int64_t k = tile.first; k < tile.last; ++k)
      std::memcpy(to + places.of((row + lane) * member.k + k) * bytes, from + ((k - tile.first) * tile.stride + lane) * bytes,
                  static_cast<size_t>(bytes));
}

void restore_words(const Weight& weight, void* out, const Parallel& parallel) {
  const Places places(weight.member());
  parallel(weight.pieces(), [&](int64_t piece) {
    PlanesSource source(weight, piece, tile_memory(), false);
    for (Tile tile; source.next(tile);) store_words(weight.member(), places, tile, out);
  });
}

}  // namespace

void restore(const Weight& weight, int type, void* out, const Parallel& parallel) {
  if (wants_words(weight.member(), type)) return restore_words(weight, out, parallel);
  const Places places(weight.member());
  parallel(weight.pieces(), [&](int64_t piece) {
    TileSource source(weight, piece, tile_memory());
    for (Tile tile; source.next(tile);) store_tile(weight.member(), places, tile, type, out);
  });
}

void pack_halves(const uint8_t* values, int64_t count, uint8_t* out) {
  for (int64_t i = 0; i < count; i += 2)
    out[i / 2] = static_cast<uint8_t>((values[i] & 15) | (i + 1 < count ? (values[i + 1] & 15) << 4 : 0));
}

}  // namespace onnx_compress
