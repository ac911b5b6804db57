// A weight: its tables in the forms that decoders look up, and its values where they are all kept.
#include <algorithm>

#include "decode.h"
#include "lookup.h"

namespace onnx_compress {

const Lookup& table_of(const Payload& payload, const Symbols& symbols, int row_class, int column_class, int quantizer) {
  const int place = (row_class * symbols.column_classes + column_class) * symbols.quantizers + quantizer;
  return payload.tables[symbols.map ? symbols.map[place] : 0];
}

namespace {

// [batch, rows, k] as [panel][k][lanes of the panel], panels one after the other; vectors may read a step's worth beyond.
std::vector<int16_t> by_panels(const std::vector<int16_t>& levels, const Member& member) {
  std::vector<int16_t> turned(levels.size() + PANEL_ROWS);
  auto to = turned.begin();
  for (int64_t batch = 0; batch < member.batch; ++batch)
    for (int64_t row = 0; row < member.rows; row += PANEL_ROWS) {
      const int64_t lanes = std::min(PANEL_ROWS, member.rows - row);
      const int16_t* from = levels.data() + (batch * member.rows + row) * member.k;
      for (int64_t k = 0; k < member.k; ++k)
        for (int64_t lane = 0; lane < lanes; ++lane) *to++ = from[lane * member.k + k];
    }
  return turned;
}

}  // namespace

Weight::Weight(const uint8_t* data, uint64_t size, int64_t member, const Options& options, int round_then)
    : payload_(parse(data, size)), member_(static_cast<size_t>(member)), kernels_(options.kernels), round_then_(round_then) {
  if (member < 0 || member_ >= payload_.members.size())
    fail(Fault::argument, "member ", member, " of a payload that has ", payload_.members.size());
  if (round_then_ == this->member().dtype || round_then_ == FLOAT) round_then_ = 0;
  if (options.checksums) onnx_compress::verify_checksums(payload_);
  if (payload_.pooled) pooled_ = by_panels(decode_pool(payload_, member_), this->member());
  if (!payload_.pooled) prepare_tables();
  // Planes are read as words, by Decompress and Gather: floats would only be one more copy of them.
  if (options.dense && this->member().form != FORM_PLANES) decode_once();
}

void Weight::prepare_tables() {
  const Symbols& symbols = member().symbols;
  for (int place = 0; symbols.quantizers == 2 && place < symbols.row_classes * symbols.column_classes; ++place) {
    const int row = place / symbols.column_classes, column = place % symbols.column_classes;
    pairs_.push_back(paired(table_of(payload_, symbols, row, column, 0), table_of(payload_, symbols, row, column, 1), symbols.raw_bits));
    small_levels_ = small_levels_ && pairs_.back().small_levels;
  }
  prepare_direct();
}

// Whether a class and its raw part decide a value before its scale, for every class of every table: that of a grid;
// of codebooks and integers where no level can lie outside what is legal.
void Weight::prepare_direct() {
  const Member& member = this->member();
  const Symbols& symbols = member.symbols;
  const bool grid = member.form == FORM_GRID, codebook = member.form == FORM_CODEBOOK;
  if (member.column_scale.count || (!grid && !codebook && member.form != FORM_SYMBOLS)) return;
  if (symbols.raw_bits && !grid) return;
  const int64_t low = codebook ? 0 : integer_low(member.dtype), high = codebook ? member.codes() - 1 : integer_high(member.dtype);
  for (Lookup& table : payload_.tables) {
    for (int place = 0; place < table.count; ++place) {
      const int level = level_of(table.first + table.index[place], symbols.raw_bits);
      const bool escape = table.escape && place == table.count - 1;
      if (!grid && (escape || level < low || level > high)) return;
      if (escape) table.escape_place = static_cast<uint8_t>(place), table.escape_id = static_cast<uint8_t>(std::max(2 * place - 1, 0));
      table.value[place] = escape ? 0.0f : codebook ? member.centroids[static_cast<size_t>(level)] : static_cast<float>(level);
      const int highest = level + (1 << symbols.raw_bits) - 1;
      if (symbols.quantizers == 1 && !escape) small_levels_ = small_levels_ && level >= -128 && highest <= 127;
      table.bytes.level[place] = static_cast<uint8_t>((escape ? 0 : level & 255) ^ 128);
      narrow_ = narrow_ && table.frequency[place] <= 127;
    }
    half_values_ = split_values(table) && half_values_;
    build_tree(table);
    build_couples(table);
  }
  direct_ = true;
}

// All tiles, [panel, k, 64]: panels are numbered batch by batch, as in FORMAT.md.
void Weight::decode_once() {
  const int64_t panels = member().batch * member().panels_per_batch();
  float* values = dense_.kept_floats(panels * member().k * PANEL_ROWS);
  Buffer memory;
  float* room = memory.floats(TILE_FLOATS);
  for (int64_t piece = 0; piece < pieces(); ++piece) {
    TileSource source(*this, piece);
    for (Tile tile; source.next(tile, {room});)
      for (int64_t lane = 0; lane < tile.lanes; lane += PANEL_ROWS)
        std::copy_n(tile.lane(lane), (tile.last - tile.first) * PANEL_ROWS,
                    values + dense_place(tile.batch, tile.row + lane) + tile.first * PANEL_ROWS);
  }
  values_ = values;
  pooled_ = {}, pairs_ = {};
}

int64_t Weight::dense_place(int64_t batch, int64_t row) const {
  return (batch * member().panels_per_batch() + row / PANEL_ROWS) * member().k * PANEL_ROWS;
}

int64_t Weight::pieces() const {
  return payload_.pooled ? member().batch * member().panels_per_batch() : static_cast<int64_t>(payload_.chunks.size());
}

int64_t Weight::piece_row(int64_t piece) const {
  if (payload_.pooled) return piece % member().panels_per_batch() * PANEL_ROWS;
  return payload_.chunks[static_cast<size_t>(piece)].first_row;
}

int64_t Weight::piece_end(int64_t piece) const {
  if (payload_.pooled) return std::min(member().rows, piece_row(piece) + PANEL_ROWS);
  const Chunk& chunk = payload_.chunks[static_cast<size_t>(piece)];
  return chunk.first_row + chunk.lanes * chunk.groups;
}

int64_t Weight::piece_of(int64_t row) const {
  if (payload_.pooled) return row / PANEL_ROWS;
  const Chunk& first = payload_.chunks.front();
  return row / (first.lanes * first.groups);
}

int64_t Weight::group_of(int64_t piece, int64_t row) const {
  if (payload_.pooled) return 0;
  const Chunk& chunk = payload_.chunks[static_cast<size_t>(piece)];
  return (row - chunk.first_row) / chunk.lanes;
}

}  // namespace onnx_compress
