// From chunks to tiles.
#include "decode.h"

#include <algorithm>
#include <cstring>

#include "number.h"
#include "planes.h"

namespace onnx_compress {

const Lookup& table_of(const Payload& payload, const Symbols& symbols, int row_class, int column_class, int quantizer) {
  const int place = (row_class * symbols.column_classes + column_class) * symbols.quantizers + quantizer;
  return payload.tables[symbols.map ? symbols.map[place] : 0];
}

namespace {

LookupPair paired(const Lookup& even, const Lookup& odd) {
  LookupPair pair;
  for (const int q : {0, 1}) {
    const Lookup& table = q ? odd : even;
    pair.first[q] = table.first;
    for (int i = 0; i < table.count; ++i, ++pair.count) {
      pair.start[pair.count] = static_cast<uint16_t>(table.start[i] + q * LookupPair::ODD_SLOTS);
      pair.frequency[pair.count] = table.frequency[i];
      pair.index[pair.count] = static_cast<uint16_t>(table.index[i] + q * LookupPair::ODD_IDS);
    }
    pair.counts[q] = table.count;
    for (int i = 0; i < 16; ++i) {
      const int id = i + q * LookupPair::ODD_IDS;
      pair.bytes.less_one[id] = table.bytes.less_one[i], pair.bytes.biased[id] = table.bytes.biased[i];
      pair.bytes.index[id] = static_cast<uint8_t>(table.bytes.index[i] + q * LookupPair::ODD_IDS);
      const int level = table.first + i, multiple = 2 * level - q * ((level > 0) - (level < 0));
      pair.small = pair.small && multiple >= -128 && multiple <= 127;
      pair.multiple[id] = static_cast<int8_t>(multiple), pair.parity[id] = static_cast<uint8_t>(level & 1);
    }
    for (int slot = 0; slot < LookupPair::ODD_SLOTS; ++slot)
      pair.bytes.place[slot + q * LookupPair::ODD_SLOTS] = static_cast<uint8_t>(table.bytes.place[slot] + q * LookupPair::ODD_IDS);
    if (table.escape) pair.escape[q] = static_cast<uint8_t>(pair.index[pair.count - 1]);
  }
  return pair;
}

}  // namespace

void throw_fault(int fault, const std::string& where) {
  switch (fault) {
    case STREAM_OVERRUN:
      fail(Fault::corruption, where, ": the stream was read beyond its end");
    case STREAM_ESCAPES:
      fail(Fault::corruption, where, ": fewer escaped values than places for them");
    case STREAM_UNUSED_BIT:
      fail(Fault::corruption, where, ": an unused bit of the raw section is set");
    case STREAM_RANGE:
      fail(Fault::corruption, where, ": a level lies outside what its form allows");
    default:
      fail(Fault::corruption, where, ": fewer values than the mask has places");
  }
}

Weight::Weight(const uint8_t* data, uint64_t size, int64_t member, bool checksums, int round_then)
    : payload_(parse(data, size)), member_(static_cast<size_t>(member)), round_then_(round_then) {
  if (member < 0 || member_ >= payload_.members.size())
    fail(Fault::argument, "member ", member, " of a payload that has ", payload_.members.size());
  if (round_then_ == this->member().dtype || round_then_ == FLOAT) round_then_ = 0;
  if (checksums) onnx_compress::verify_checksums(payload_);
  if (payload_.pooled) {
    pooled_ = decode_pool(payload_, member_);
    return;
  }
  const Symbols& symbols = this->member().symbols;
  for (int place = 0; symbols.quantizers == 2 && place < symbols.row_classes * symbols.column_classes; ++place) {
    const int row = place / symbols.column_classes, column = place % symbols.column_classes;
    pairs_.push_back(paired(table_of(payload_, symbols, row, column, 0), table_of(payload_, symbols, row, column, 1)));
  }
}

int64_t Weight::pieces() const {
  return payload_.pooled ? member().batch * member().panels_per_batch() : static_cast<int64_t>(payload_.chunks.size());
}

int64_t Weight::piece_row(int64_t piece) const {
  if (payload_.pooled) return piece % member().panels_per_batch() * PANEL_ROWS;
  return payload_.chunks[static_cast<size_t>(piece)].first_row;
}

int64_t Weight::piece_of(int64_t row) const {
  if (payload_.pooled) return row / PANEL_ROWS;
  const Chunk& first = payload_.chunks.front();
  return row / (first.lanes * first.groups);
}

TileSource::TileSource(const Weight& weight, int64_t piece, float* memory)
    : weight_(weight), member_(weight.member()), piece_(piece), memory_(memory) {
  if (member_.form == FORM_PLANES) {
    planes_ = std::make_unique<PlanesSource>(weight, piece, memory, true);
    return;
  }
  batch_ = piece / weight.pieces_per_batch();
  row_ = weight.piece_row(piece);
  if (weight.payload().pooled) {
    lanes_ = std::min(PANEL_ROWS, member_.rows - row_);
  } else {
    open_chunk();
  }
  form_.form = member_.form;
  form_.value_kind = member_.value_kind;
  form_.round_first = member_.dtype == FLOAT16 || member_.dtype == BFLOAT16 ? member_.dtype : 0;
  form_.round_then = weight.round_then_;
  form_.low = static_cast<int>(member_.integer() ? integer_low(member_.dtype) : 0);
  form_.high = static_cast<int>(member_.integer() ? integer_high(member_.dtype) : 1);
  if (member_.form == FORM_CODEBOOK || member_.form == FORM_MAPPED) form_.high = static_cast<int>(member_.codes()) - 1;
  form_.centroids = member_.centroids.data();
  form_.has_scale = member_.scale.count != 0;
  open_group();
}

// "rans | heads: 2 * L: the u16 start states, lane 0 first; each >= 256, else R3 | raw | escapes | values"
void TileSource::open_chunk() {
  const Payload& payload = weight_.payload();
  chunk_ = &payload.chunks[static_cast<size_t>(piece_)];
  lanes_ = chunk_->lanes, groups_ = chunk_->groups;
  stream_.bytes = payload.data + chunk_->offset;
  stream_.position = 0, stream_.rans_bytes = chunk_->rans_bytes;
  stream_.readable = payload.size - chunk_->offset;
  const uint8_t* heads = stream_.bytes + chunk_->rans_bytes;
  stream_.raw = heads + 2 * lanes_;
  stream_.escapes = stream_.raw + chunk_->raw_bytes, stream_.escapes_left = chunk_->escapes;
  stream_.values = stream_.escapes + chunk_->escapes, stream_.values_left = chunk_->values;
  std::fill(stream_.states, stream_.states + LANES_MAX, uint16_t{256});
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    stream_.states[lane] = load16(heads + 2 * lane);
    if (stream_.states[lane] < 256) fail(Fault::corruption, "chunk ", piece_, ": a start state is below 256");
  }
}

void TileSource::open_group() {
  plan_.lanes = static_cast<int>(lanes_);
  plan_.panels = static_cast<int>((lanes_ + PANEL_ROWS - 1) / PANEL_ROWS);
  plan_.raw_bits = member_.symbols.raw_bits;
  plan_.escape_base = member_.symbols.escape_base;
  if (chunk_) load_tables();
  if (member_.form == FORM_MAPPED) load_groups();
  load_scales(0);
  step_ = 0;
}

void TileSource::load_tables() {
  const Symbols& symbols = member_.symbols;
  plan_.quantizers = symbols.quantizers;
  plan_.column_class = symbols.column_class.empty() ? nullptr : symbols.column_class.data();
  // "each row has a state s in 0..7, which is 0 before the row's first symbol"
  std::fill(stream_.trellis, stream_.trellis + LANES_MAX, uint8_t{0});
  const int64_t first = batch_ * member_.panels_per_batch() + row_ / PANEL_ROWS;
  for (int i = 0; i < plan_.panels; ++i) {
    const int row_class = symbols.row_class.empty() ? 0 : symbols.row_class[static_cast<size_t>(first + i)];
    for (int c = 0; c < symbols.column_classes; ++c) {
      plan_.tables[i][c] = &table_of(weight_.payload(), symbols, row_class, c, 0);
      if (symbols.quantizers == 2) plan_.pairs[i][c] = &weight_.pairs_[static_cast<size_t>(row_class * symbols.column_classes + c)];
    }
  }
}

// "value = centroids[row_group[row] * n + code]"
void TileSource::load_groups() {
  std::fill(form_.base, form_.base + LANES_MAX, 0);
  for (int64_t lane = 0; lane < lanes_; ++lane)
    form_.base[lane] = static_cast<int32_t>(member_.first_centroid(batch_ * member_.rows + row_ + lane));
}

// "scale has batch * rows * blocks values in that order, or one value for all"
void TileSource::load_scales(int64_t block) {
  const Dense& scale = member_.scale;
  const int64_t blocks = member_.block ? (member_.k + member_.block - 1) / member_.block : 1;
  std::fill(form_.scale, form_.scale + LANES_MAX, 0.0f);
  for (int64_t lane = 0; lane < lanes_ && scale.count; ++lane) {
    const int64_t index = (batch_ * member_.rows + row_ + lane) * blocks + block;
    form_.scale[lane] = scale.at(scale.count == 1 ? 0 : static_cast<uint64_t>(index));
  }
}

void TileSource::load_columns(int64_t first, int64_t last) {
  form_.column_scale = nullptr;
  if (member_.column_scale.count == 0) return;
  columns_.resize(static_cast<size_t>(last - first));
  for (int64_t k = first; k < last; ++k) columns_[static_cast<size_t>(k - first)] = member_.column_scale.at(static_cast<uint64_t>(k));
  form_.column_scale = columns_.data();
}

TileSource::~TileSource() = default;

bool TileSource::next(Tile& tile) {
  if (planes_) return planes_->next(tile);
  if (step_ == member_.k) {
    if (++group_ == groups_) {
      finish();
      return false;
    }
    row_ += lanes_;
    open_group();
  }
  const int64_t stride = plan_.panels * PANEL_ROWS;
  const int64_t last = std::min(member_.k, step_ + std::min(TILE_FLOATS / stride, 4 * TILE_STEPS));
  tile = Tile{memory_, stride, batch_, row_, lanes_, step_, last};
  while (step_ < last) {  // a range at a time in which every lane has one scale
    const int64_t block_end = member_.block ? (step_ / member_.block + 1) * member_.block : member_.k;
    if (member_.block && step_ % member_.block == 0 && step_) load_scales(step_ / member_.block);
    const int64_t end = std::min(last, block_end);
    float* to = memory_ + (step_ - tile.first) * stride;
    load_columns(step_, end);
    chunk_ ? decode_range(step_, end, to) : pooled_range(step_, end, to);
    step_ = end;
  }
  return true;
}

void TileSource::decode_range(int64_t first, int64_t last, float* to) {
  const int fault = kernels().decode(&stream_, &plan_, &form_, first, last, to);
  if (fault != STREAM_OK) throw_fault(fault, "chunk " + std::to_string(piece_) + ", rows from " + std::to_string(row_));
}

// The levels of a pool's member are checked already: only the arithmetic of the forms is left, in the same order.
void TileSource::pooled_range(int64_t first, int64_t last, float* to) {
  const int64_t stride = plan_.panels * PANEL_ROWS;
  std::memset(to, 0, static_cast<size_t>((last - first) * stride) * sizeof(float));
  for (int64_t lane = 0; lane < lanes_; ++lane) {
    const int16_t* levels = weight_.pooled_.data() + (batch_ * member_.rows + row_ + lane) * member_.k;
    for (int64_t k = first; k < last; ++k) {
      float value = static_cast<float>(levels[k]);
      if (member_.form == FORM_GRID) {
        const float scale = form_.column_scale ? form_.scale[lane] * form_.column_scale[k - first] : form_.scale[lane];
        value = scale * value;
      } else if (member_.form == FORM_CODEBOOK || member_.form == FORM_MAPPED) {
        value = member_.centroids[static_cast<size_t>((member_.form == FORM_MAPPED ? form_.base[lane] : 0) + levels[k])];
        if (form_.has_scale) value = form_.scale[lane] * value;
      }
      for (const int dtype : {form_.round_first, form_.round_then}) {
        if (dtype == FLOAT16) value = from_half(to_half(value));
        if (dtype == BFLOAT16) value = from_bfloat(to_bfloat(value));
      }
      to[(k - first) * stride + lane] = value;
    }
  }
}

// "After the last step every state is 256 and every section is used up, else R3."
void TileSource::finish() const {
  if (chunk_ == nullptr) return;
  bool ended = stream_.position == stream_.rans_bytes && stream_.escapes_left == 0 && stream_.values_left == 0;
  for (int64_t lane = 0; lane < lanes_; ++lane) ended = ended && stream_.states[lane] == 256;
  if (!ended)
    fail(Fault::corruption, "chunk ", piece_, " does not end where its encoder began: the payload was changed after it was written");
}

}  // namespace onnx_compress
