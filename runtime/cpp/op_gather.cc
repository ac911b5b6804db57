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

// The indices of one piece, and how many of its groups have to be decoded.
struct Part {
  const Wanted *next, *end;
  int64_t piece, groups;
};

// Those with the same number of groups one after the other.
std::vector<Part> parts_of(const Weight& weight, const std::vector<Wanted>& wanted) {
  std::vector<Part> parts;
  for (const Wanted& one : wanted) {
    const int64_t piece = weight.piece_of(one.row);
    if (parts.empty() || parts.back().piece != piece) parts.push_back({&one, &one, piece, 0});
    parts.back().end = &one + 1;
    parts.back().groups = weight.group_of(piece, one.row) + 1;
  }
  std::stable_sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.groups < b.groups; });
  return parts;
}

class Gather : public WeightOperator {
 public:
  Gather(const Attributes& attributes, const Options& options, int type)
      : WeightOperator(attributes, 0, static_cast<int>(attributes.integer("to", 0)), options), type_(type) {
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

    const std::vector<Part> parts = parts_of(*held, wanted);
    // Parts in step are decoded side by side, four at a time.
    std::vector<std::pair<size_t, size_t>> turns;
    for (size_t i = 0, end; i < parts.size(); i = end) {
      end = std::min(parts.size(), i + TOGETHER);
      if (end - i < TOGETHER || parts[i].groups != parts[end - 1].groups || member.form == FORM_PLANES) end = i + 1;
      turns.push_back({i, end});
    }
    run.parallel(static_cast<int64_t>(turns.size()), [&](int64_t turn) {
      const auto [first, end] = turns[static_cast<size_t>(turn)];
      end - first == TOGETHER ? gather_together(*held, &parts[first], out) : gather_piece(*held, parts[first], out);
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
  void gather_piece(const Weight& weight, Part part, void* out) const {
    if (wants_words(weight.member(), type_)) return gather_words(weight, part, out);
    TileSource source(weight, part.piece);
    for (Tile tile; part.next != part.end && source.next(tile, {tile_memory()});) store_rows(tile, weight.member().k, part, out);
  }

  void gather_together(const Weight& weight, const Part* first, void* out) const {
    std::vector<TileSource> made;
    made.reserve(TOGETHER);
    TileSource* sources[TOGETHER];
    Part parts[TOGETHER];
    for (int i = 0; i < TOGETHER; ++i) {
      parts[i] = first[i];
      sources[i] = &made.emplace_back(weight, parts[i].piece);
    }
    for (Tile tiles[TOGETHER]; parts[0].next != parts[0].end && TileSource::next_together(sources, tiles, tile_memory());)
      for (int i = 0; i < TOGETHER; ++i) store_rows(tiles[i], weight.member().k, parts[i], out);
  }

  // The exact bits of a Planes weight.
  void gather_words(const Weight& weight, Part part, void* out) const {
    const int64_t k = weight.member().k, bytes = element_bytes(type_);
    PlanesSource source(weight, part.piece, false);
    for (Tile tile; part.next != part.end && source.next(tile, {tile_memory()});)
      take_rows(tile, k, part, [&](int64_t lane, int64_t to) { store_lane_words(tile, lane, bytes, out, to); });
  }

  void store_rows(const Tile& tile, int64_t k, Part& part, void* out) const {
    take_rows(tile, k, part,
              [&](int64_t lane, int64_t to) { store_elements(tile.lane(lane), PANEL_ROWS, tile.last - tile.first, type_, out, to); });
  }

  // Calls store(lane, first element of the output) for the asked rows of a tile; those that are complete are done with.
  template <class Store>
  static void take_rows(const Tile& tile, int64_t k, Part& part, const Store& store) {
    const Wanted* here = part.next;
    for (; here != part.end && here->row < tile.row + tile.lanes; ++here) store(here->row - tile.row, here->place * k + tile.first);
    if (tile.last == k) part.next = here;
  }

  int type_;
};

}  // namespace

std::unique_ptr<Operator> make_gather(const Attributes& attributes, const Options& options, int type) {
  return std::make_unique<Gather>(attributes, options, type);
}

}  // namespace onnx_compress
