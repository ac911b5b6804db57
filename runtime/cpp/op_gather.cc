// CompressedGather: w[indices] along axis 0, decoding only the chunks that hold the asked rows (FORMAT.md, section 8).
#include <algorithm>

#include "operator.h"
#include "planes.h"

namespace onnx_compress {
namespace {

struct Wanted {
  int64_t row, place;  // a row of the weight, and which of the output's it becomes
};

std::vector<Wanted> read_indices(const Tensor& tensor, int64_t rows) {
  std::vector<Wanted> wanted(static_cast<size_t>(tensor.count()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const int64_t index =
        tensor.type == TYPE_INT32 ? static_cast<const int32_t*>(tensor.data)[i] : static_cast<const int64_t*>(tensor.data)[i];
    if (index < -rows || index >= rows) fail(Fault::argument, "index ", index, " at ", i, " is outside ", -rows, "..", rows - 1);
    wanted[i] = {index < 0 ? index + rows : index, static_cast<int64_t>(i)};
  }
  std::sort(wanted.begin(), wanted.end(), [](const Wanted& a, const Wanted& b) { return a.row < b.row; });
  return wanted;
}

class Gather : public Operator {
 public:
  Gather(const Attributes& attributes, bool checksums, int type)
      : Operator(attributes, 0, static_cast<int>(attributes.integer("to", 0)), checksums), type_(type) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Member& member = held->member();
    const Tensor indices = run.input(1).value();
    const std::vector<Wanted> wanted = read_indices(indices, member.rows);
    Shape shape = indices.shape;
    shape.insert(shape.end(), member.dims.begin() + 1, member.dims.end());
    void* out = run.output(shape);

    std::vector<size_t> starts;  // where the indices of another piece begin
    for (size_t i = 0; i < wanted.size(); ++i)
      if (i == 0 || held->piece_of(wanted[i].row) != held->piece_of(wanted[i - 1].row)) starts.push_back(i);
    starts.push_back(wanted.size());
    run.parallel(static_cast<int64_t>(starts.size()) - 1, [&](int64_t part) {
      const size_t index = static_cast<size_t>(part);
      gather_piece(*held, wanted.data() + starts[index], wanted.data() + starts[index + 1], out);
    });
  }

 protected:
  void validate(const Weight& weight) const override {
    const Member& member = weight.member();
    bool plain = member.batch == 1 && !member.dims.empty() && member.rows == member.dims[0];
    for (size_t axis = 0; axis < member.permutation.size(); ++axis) plain = plain && member.permutation[axis] == static_cast<int>(axis);
    if (!plain)
      fail(Fault::argument, "a weight of dims ", text_of(member.dims), " does not have its first axis in rows: use Decompress and Gather");
    check_cast(member.dtype, type_);
  }

 private:
  // "A stream can only be read from its start", so a piece is decoded from its head to the last asked row, and no further.
  void gather_piece(const Weight& weight, const Wanted* next, const Wanted* end, void* out) const {
    const int64_t k = weight.member().k;
    if (wants_words(weight.member(), type_)) return gather_words(weight, next, end, out);
    TileSource source(weight, weight.piece_of(next->row), tile_memory());
    for (Tile tile; next != end && source.next(tile);) {
      const Wanted* here = next;
      for (; here != end && here->row < tile.row + tile.lanes; ++here)
        store_elements(tile.values + (here->row - tile.row), tile.stride, tile.last - tile.first, type_, out, here->place * k + tile.first);
      if (tile.last == k) next = here;
    }
  }

  // The same of the exact bits of a Planes weight.
  void gather_words(const Weight& weight, const Wanted* next, const Wanted* end, void* out) const {
    const int64_t k = weight.member().k;
    PlanesSource source(weight, weight.piece_of(next->row), tile_memory(), false);
    for (Tile tile; next != end && source.next(tile);) {
      const Wanted* here = next;
      for (; here != end && here->row < tile.row + tile.lanes; ++here)
        store_tile_words(tile, here->row - tile.row, element_bytes(type_), out, here->place * k + tile.first);
      if (tile.last == k) next = here;
    }
  }

  int type_;
};

}  // namespace

std::unique_ptr<Operator> make_gather(const Attributes& attributes, bool checksums, int type) {
  return std::make_unique<Gather>(attributes, checksums, type);
}

}  // namespace onnx_compress
