// Planes: sizes, legality and the walk over chunks; the steps themselves are in kernel_planes.cc.
#include "planes.h"

#include <algorithm>
#include <cstring>

#include "number.h"

namespace onnx_compress {
namespace {

// Steps of a tile of words: few enough that a turned panel stays in the first-level cache.
constexpr int64_t TILE_STEPS = 256;

}  // namespace

int planes_width(int dtype) {
  switch (dtype) {
    case UINT8:
    case INT8:
    case FLOAT8E4M3FN:
    case FLOAT8E4M3FNUZ:
    case FLOAT8E5M2:
    case FLOAT8E5M2FNUZ:
      return 8;
    case UINT16:
    case INT16:
    case FLOAT16:
    case BFLOAT16:
      return 16;
    case FLOAT:
    case INT32:
    case UINT32:
      return 32;
    case DOUBLE:
    case INT64:
    case UINT64:
      return 64;
    default:
      return 0;
  }
}

int planes_exponent(int dtype) {
  switch (dtype) {
    case FLOAT:
    case BFLOAT16:
      return 8;
    case FLOAT16:
    case FLOAT8E5M2:
    case FLOAT8E5M2FNUZ:
      return 5;
    case FLOAT8E4M3FN:
    case FLOAT8E4M3FNUZ:
      return 4;
    case DOUBLE:
      return 11;
    default:
      return 0;
  }
}

int64_t element_bytes(int dtype) { return std::max(planes_width(dtype) / 8, 1); }

// "An escaped value has two bytes where the top field has more than eight bits"
int escape_bytes(const Member& member) {
  const int below = member.split.drop + 8 * member.split.planes + member.symbols.raw_bits;
  return planes_width(member.dtype) - below > 8 ? 2 : 1;
}

// "for each step and panel, plane by plane: the bytes of the rows that store whole ones, then the kept bits of the short rows"
uint64_t planes_bytes(const Member& member, int64_t first, int64_t groups, int64_t lanes) {
  const Split& split = member.split;
  if (split.short_row.empty()) return static_cast<uint64_t>(groups * lanes * split.planes) * static_cast<uint64_t>(member.k);
  uint64_t step = 0;
  for (int64_t group = 0; group < groups; ++group)
    for (int64_t at = 0; at < lanes; at += PANEL_ROWS) {
      const uint8_t* flags = split.short_row.data() + first + group * lanes + at;
      const int64_t rows = std::min(PANEL_ROWS, lanes - at), few = std::count(flags, flags + rows, uint8_t{1});
      for (int plane = 0; plane < split.planes; ++plane) {
        const int kept = kept_bits(split.planes, split.short_bits, plane);
        step += static_cast<uint64_t>(kept == 8 ? rows : rows - few + (kept * few + 7) / 8);
      }
    }
  return step * static_cast<uint64_t>(member.k);
}

PlanesSource::PlanesSource(const Weight& weight, int64_t piece, bool floats)
    : weight_(weight),
      member_(weight.member()),
      piece_(piece),
      chunk_(weight.payload().chunks[static_cast<size_t>(piece)]),
      row_(chunk_.first_row) {
  const Split& split = member_.split;
  if (floats && member_.dtype != FLOAT && member_.dtype != FLOAT16 && member_.dtype != BFLOAT16)
    fail(Fault::argument, "a weight of dtype ", member_.dtype, " does not become floats: use Decompress with `like` of that type");
  split_.width = planes_width(member_.dtype), split_.exponent = planes_exponent(member_.dtype);
  split_.planes = split.planes, split_.drop = split.drop, split_.short_bits = split.short_bits;
  split_.base = split.base, split_.delta = split.delta, split_.escape_bytes = escape_bytes(member_);
  split_.floats = floats ? member_.dtype : 0, split_.cut = !split.cuts.empty();
  sums_.resize(split.delta ? static_cast<size_t>(chunk_.lanes) : 0);
  open_chunk();
  open_group();
}

// "rans | heads | raw | escapes | planes"
void PlanesSource::open_chunk() {
  const Payload& payload = weight_.payload();
  stream_.bytes = payload.data + chunk_.offset;
  stream_.position = 0, stream_.rans_bytes = chunk_.rans_bytes;
  stream_.readable = payload.size - chunk_.offset;
  const uint8_t* heads = stream_.bytes + chunk_.rans_bytes;
  stream_.raw = heads + 2 * chunk_.lanes;
  stream_.escapes = stream_.raw + chunk_.raw_bytes, stream_.escapes_left = chunk_.escapes;
  stream_.values = stream_.escapes + chunk_.escapes * static_cast<uint64_t>(split_.escape_bytes), stream_.values_left = 0;
  std::fill(stream_.states, stream_.states + LANES_MAX, uint16_t{256});
  for (int64_t lane = 0; lane < chunk_.lanes; ++lane) {
    stream_.states[lane] = load16(heads + 2 * lane);
    if (stream_.states[lane] < 256) fail(Fault::corruption, "chunk ", piece_, ": a start state is below 256");
  }
}

void PlanesSource::open_group() {
  const Symbols& symbols = member_.symbols;
  plan_.lanes = static_cast<int>(chunk_.lanes);
  plan_.panels = static_cast<int>((chunk_.lanes + PANEL_ROWS - 1) / PANEL_ROWS);
  plan_.raw_bits = symbols.raw_bits, plan_.escape_base = symbols.escape_base, plan_.quantizers = 1;
  plan_.column_class = symbols.column_class.empty() ? nullptr : symbols.column_class.data();
  const int64_t panel = chunk_.batch * member_.panels_per_batch() + row_ / PANEL_ROWS;
  for (int i = 0; i < plan_.panels; ++i) {
    const int row_class = symbols.row_class.empty() ? 0 : symbols.row_class[static_cast<size_t>(panel + i)];
    for (int c = 0; c < symbols.column_classes; ++c) {
      const Lookup& table = table_of(weight_.payload(), symbols, row_class, c, 0);
      plan_.tables[i][c] = &table;
      if (split_.cut) split_.cuts[i][c] = member_.split.cuts[static_cast<size_t>(&table - weight_.payload().tables.data())].of_index;
    }
  }
  const Split& split = member_.split;
  std::fill(split_.shorts, split_.shorts + 4, uint64_t{0});
  for (int64_t lane = 0; lane < chunk_.lanes && !split.short_row.empty(); ++lane)
    split_.shorts[lane / PANEL_ROWS] |= uint64_t{split.short_row[static_cast<size_t>(chunk_.batch * member_.rows + row_ + lane)]}
                                        << lane % PANEL_ROWS;
  std::fill(sums_.begin(), sums_.end(), uint64_t{0});
  split_.sums = sums_.data();
  step_ = 0;
}

bool PlanesSource::next(Tile& tile, const Room& room) {
  if (step_ == member_.k) {
    if (++group_ == chunk_.groups) {
      finish();
      return false;
    }
    row_ += chunk_.lanes;
    open_group();
  }
  const int64_t words = room.floats * 4 / (split_.floats ? 4 : split_.width / 8) / (plan_.panels * PANEL_ROWS);
  const int64_t last = std::min(member_.k, step_ + std::clamp<int64_t>(std::min(room.steps, TILE_STEPS), 1, words));
  const PlanesRange range{step_, last, room.memory};
  const int fault = weight_.kernels().planes(&stream_, &plan_, &split_, &range);
  if (fault != STREAM_OK) throw_fault(fault, "chunk " + std::to_string(piece_) + ", rows from " + std::to_string(row_));
  tile = Tile{room.memory, (last - step_) * PANEL_ROWS, chunk_.batch, row_, chunk_.lanes, step_, last, &weight_.kernels()};
  step_ = last;
  return true;
}

// "After the last step every state is 256 and every section is used up, else R3."
void PlanesSource::finish() const {
  bool ended = stream_.position == stream_.rans_bytes && stream_.escapes_left == 0;
  for (int64_t lane = 0; lane < chunk_.lanes; ++lane) ended = ended && stream_.states[lane] == 256;
  if (!ended)
    fail(Fault::corruption, "chunk ", piece_, " does not end where its encoder began: the payload was changed after it was written");
}

const uint8_t* panel_words(const Tile& tile, int64_t panel, int64_t bytes) {
  return reinterpret_cast<const uint8_t*>(tile.values) + panel * tile.panel_stride * bytes;
}

void store_lane_words(const Tile& tile, int64_t lane, int64_t bytes, void* to, int64_t offset) {
  const int64_t first = offset * bytes;
  const uint8_t* from = panel_words(tile, lane / PANEL_ROWS, bytes) + lane % PANEL_ROWS * bytes;
  const Turn turn{from, tile.last - tile.first, 1, bytes, static_cast<uint8_t*>(to), &first};
  tile.kernels->turn_words(&turn);
}

}  // namespace onnx_compress
