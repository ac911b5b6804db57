// From chunks to tiles.
#include "decode.h"

#include <algorithm>
#include <cstring>

#include "number.h"
#include "planes.h"

namespace onnx_compress {

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

TileSource::TileSource(const Weight& weight, int64_t piece) : weight_(weight), member_(weight.member()), piece_(piece) {
  if (member_.form == FORM_PLANES) {
    planes_ = std::make_shared<PlanesSource>(weight, piece, true);
    lanes_ = weight.payload().chunks[static_cast<size_t>(piece)].lanes;
    return;
  }
  batch_ = piece / weight.pieces_per_batch();
  row_ = weight.piece_row(piece);
  if (weight.payload().pooled) {
    lanes_ = std::min(PANEL_ROWS, member_.rows - row_);
  } else {
    open_chunk();
  }
  if (weight.values_) return;
  if (chunk_) open_stream();
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

void TileSource::open_chunk() {
  chunk_ = &weight_.payload().chunks[static_cast<size_t>(piece_)];
  lanes_ = chunk_->lanes, groups_ = chunk_->groups;
}

// "rans | heads: 2 * L: the u16 start states, lane 0 first; each >= 256, else R3 | raw | escapes | values"
void TileSource::open_stream() {
  const Payload& payload = weight_.payload();
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
}

void TileSource::load_tables() {
  const Symbols& symbols = member_.symbols;
  plan_.quantizers = symbols.quantizers;
  plan_.direct = weight_.direct_, plan_.narrow = weight_.narrow_, plan_.half_values = weight_.half_values_;
  plan_.small_levels = weight_.small_levels_, plan_.sharing = symbols.column_classes == 1 ? SHARED_BY_ALL : SHARED_IN_STEP;
  plan_.column_class = symbols.column_class.empty() ? nullptr : symbols.column_class.data();
  // "each row has a state s in 0..7, which is 0 before the row's first symbol"
  std::fill(stream_.trellis, stream_.trellis + LANES_MAX, uint8_t{0});
  const int64_t first = batch_ * member_.panels_per_batch() + row_ / PANEL_ROWS;
  for (int i = 0; i < plan_.panels; ++i) {
    const int row_class = symbols.row_class.empty() ? 0 : symbols.row_class[static_cast<size_t>(first + i)];
    if (!symbols.row_class.empty() && row_class != symbols.row_class[static_cast<size_t>(first)]) plan_.sharing = SHARED_BY_NONE;
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
  if (scale.count <= 1) return std::fill(form_.scale, form_.scale + lanes_, scale.count ? scale.at(0) : 1.0f);
  for (int64_t lane = 0; lane < lanes_; ++lane)
    form_.scale[lane] = scale.at(static_cast<uint64_t>((batch_ * member_.rows + row_ + lane) * blocks + block));
}

void TileSource::load_columns(int64_t first, int64_t last) {
  form_.column_scale = nullptr;
  if (member_.column_scale.count == 0) return;
  columns_.resize(static_cast<size_t>(last - first));
  for (int64_t k = first; k < last; ++k) columns_[static_cast<size_t>(k - first)] = member_.column_scale.at(static_cast<uint64_t>(k));
  form_.column_scale = columns_.data();
}

// The next group, once all of this one is decoded; false where there is none.
bool TileSource::next_group() {
  if (step_ < member_.k) return true;
  if (++group_ == groups_) {
    finish();
    return false;
  }
  row_ += lanes_, step_ = 0;
  if (weight_.values_ == nullptr) open_group();
  return true;
}

// The tile of the steps that come next; the same where all are kept, so that sums are the same.
Tile TileSource::begin_tile(const Room& room) const {
  const int64_t panels = (lanes_ + PANEL_ROWS - 1) / PANEL_ROWS;
  const int64_t last = std::min(member_.k, step_ + std::clamp<int64_t>(room.steps, 1, room.floats / (panels * PANEL_ROWS)));
  if (weight_.values_) {
    const float* values = weight_.values_ + weight_.dense_place(batch_, row_) + step_ * PANEL_ROWS;
    return {values, member_.k * PANEL_ROWS, batch_, row_, lanes_, step_, last, weight_.kernels_, true};
  }
  return {room.memory, (last - step_) * PANEL_ROWS, batch_, row_, lanes_, step_, last, weight_.kernels_};
}

bool TileSource::next(Tile& tile, const Room& room) {
  if (planes_) return planes_->next(tile, room);
  if (!next_group()) return false;
  tile = begin_tile(room);
  fill(tile, room.memory);
  return true;
}

bool TileSource::next_together(TileSource* const* sources, Tile* tiles, float* memory) {
  Room rooms[TOGETHER];
  for (int i = 0; i < TOGETHER; ++i) rooms[i] = {memory + i * SHARED_FLOATS, SHARED_FLOATS};
  bool going = true, side_by_side = true;
  if (sources[0]->planes_) {
    for (int i = 0; i < TOGETHER; ++i) going = sources[i]->planes_->next(tiles[i], rooms[i]) && going;
    return going;
  }
  for (int i = 0; i < TOGETHER; ++i) {
    TileSource& source = *sources[i];
    going = source.next_group() && going;
    if (!going) continue;
    tiles[i] = source.begin_tile(rooms[i]);
    side_by_side = side_by_side && source.chunk_ && source.plan_.direct && source.plan_.panels == 1 && source.member_.block == 0 &&
                   !source.form_.round_first && !source.form_.round_then;
  }
  if (!going) return false;
  if (side_by_side) decode_side_by_side(sources, tiles, memory);
  for (int i = 0; i < TOGETHER; ++i) sources[i]->fill(tiles[i], rooms[i].memory);
  return true;
}

// What `fill` has to do is less afterwards.
void TileSource::decode_side_by_side(TileSource* const* sources, const Tile* tiles, float* memory) {
  Stream* streams[TOGETHER];
  const Group* groups[TOGETHER];
  const Evaluation* forms[TOGETHER];
  Range ranges[TOGETHER];
  int faults[TOGETHER] = {};
  for (int i = 0; i < TOGETHER; ++i) {
    TileSource& source = *sources[i];
    streams[i] = &source.stream_, groups[i] = &source.plan_, forms[i] = &source.form_;
    ranges[i] = {tiles[i].first, tiles[i].last, memory + i * SHARED_FLOATS, tiles[i].panel_stride, nullptr, nullptr};
  }
  sources[0]->weight_.kernels_->decode_together(streams, groups, forms, ranges, faults);
  for (int i = 0; i < TOGETHER; ++i) {
    sources[i]->step_ = ranges[i].first;
    sources[i]->check(faults[i]);
  }
}

// Decodes what is left of a tile.
void TileSource::fill(const Tile& tile, float* memory) {
  if (weight_.values_) step_ = tile.last;
  while (step_ < tile.last) {  // a range at a time in which every lane has one scale
    const int64_t block_end = member_.block ? (step_ / member_.block + 1) * member_.block : member_.k;
    if (member_.block && step_ % member_.block == 0 && step_) load_scales(step_ / member_.block);
    const Range range = {step_,  std::min(tile.last, block_end), memory + (step_ - tile.first) * PANEL_ROWS, tile.panel_stride, nullptr,
                         nullptr};
    load_columns(range.first, range.last);
    chunk_ ? decode_range(range) : pooled_range(range);
    step_ = range.last;
  }
}

void TileSource::multiply(const float* x, float* y) {
  alignas(64) float sums[LANES_MAX], scaled[LANES_MAX];
  while (next_group()) {
    float* to = y + row_;
    std::fill(to, to + lanes_, 0.0f);
    while (step_ < member_.k) {  // a range at a time in which every lane has one scale
      if (member_.block && step_) load_scales(step_ / member_.block);
      const int64_t last = member_.block ? std::min(member_.k, step_ + member_.block) : member_.k;
      std::fill(sums, sums + LANES_MAX, 0.0f), std::fill(scaled, scaled + LANES_MAX, 0.0f);
      decode_range({step_, last, sums, PANEL_ROWS, x + step_, scaled});
      for (int64_t lane = 0; lane < lanes_; ++lane) to[lane] += form_.scale[lane] * sums[lane] + scaled[lane];
      step_ = last;
    }
  }
}

void TileSource::decode_range(const Range& range) { check(weight_.kernels_->decode(&stream_, &plan_, &form_, &range)); }

void TileSource::check(int fault) const {
  if (fault != STREAM_OK) throw_fault(fault, "chunk " + std::to_string(piece_) + ", rows from " + std::to_string(row_));
}

// The levels of a pool's member are checked already: only the arithmetic of the forms is left, in the same order. A piece has one panel.
void TileSource::pooled_range(const Range& range) {
  const int16_t* levels = weight_.pooled_.data() + (batch_ * member_.rows + row_) * member_.k + range.first * lanes_;
  if (member_.form == FORM_GRID) {
    const PooledSteps steps = {levels, lanes_, range.last - range.first, form_.scale, form_.column_scale, range.tile};
    weight_.kernels_->scale_levels(&steps);
  } else {
    for (int64_t k = range.first; k < range.last; ++k)
      coded_step(levels + (k - range.first) * lanes_, range.tile + (k - range.first) * PANEL_ROWS);
  }
  for (int64_t k = range.first; k < range.last && (form_.round_first || form_.round_then); ++k)
    round_step(range.tile + (k - range.first) * PANEL_ROWS);
}

// One step of a codebook, or of integers.
void TileSource::coded_step(const int16_t* levels, float* to) const {
  if (member_.form == FORM_CODEBOOK || member_.form == FORM_MAPPED) {
    const bool mapped = member_.form == FORM_MAPPED;
    for (int64_t lane = 0; lane < lanes_; ++lane) to[lane] = form_.centroids[(mapped ? form_.base[lane] : 0) + levels[lane]];
    for (int64_t lane = 0; lane < lanes_ && form_.has_scale; ++lane) to[lane] *= form_.scale[lane];
  } else {
    for (int64_t lane = 0; lane < lanes_; ++lane) to[lane] = static_cast<float>(levels[lane]);
  }
  std::fill(to + lanes_, to + PANEL_ROWS, 0.0f);
}

void TileSource::round_step(float* to) const {
  for (const int dtype : {form_.round_first, form_.round_then}) {
    if (dtype != FLOAT16 && dtype != BFLOAT16) continue;
    for (int64_t lane = 0; lane < lanes_; ++lane)
      to[lane] = dtype == FLOAT16 ? from_half(to_half(to[lane])) : from_bfloat(to_bfloat(to[lane]));
  }
}

// "After the last step every state is 256 and every section is used up, else R3."
void TileSource::finish() const {
  if (chunk_ == nullptr || weight_.values_) return;
  bool ended = stream_.position == stream_.rans_bytes && stream_.escapes_left == 0 && stream_.values_left == 0;
  for (int64_t lane = 0; lane < lanes_; ++lane) ended = ended && stream_.states[lane] == 256;
  if (!ended)
    fail(Fault::corruption, "chunk ", piece_, " does not end where its encoder began: the payload was changed after it was written");
}

}  // namespace onnx_compress
