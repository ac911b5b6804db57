// A weight: its tables in the forms that decoders look up, and its values where they are all kept.
#include <algorithm>

#include "decode.h"
#include "trellis.h"

namespace onnx_compress {

const Lookup& table_of(const Payload& payload, const Symbols& symbols, int row_class, int column_class, int quantizer) {
  const int place = (row_class * symbols.column_classes + column_class) * symbols.quantizers + quantizer;
  return payload.tables[symbols.map ? symbols.map[place] : 0];
}

namespace {

// "level = (c << r) - ((1 << r) >> 1) + b", of a raw part b of 0.
int level_of(int class_value, int raw_bits) { return class_value * (1 << raw_bits) - ((1 << raw_bits) >> 1); }

LookupPair paired(const Lookup& even, const Lookup& odd, int raw_bits) {
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
      pair.bytes.start[id] = table.bytes.start[i];
      pair.bytes.index[id] = static_cast<uint8_t>(table.bytes.index[i] + q * LookupPair::ODD_IDS);
      const int level = table.first + i, multiple = multiple_of(level, q);
      pair.small = pair.small && multiple >= -128 && multiple <= 127;
      pair.multiple[id] = static_cast<int8_t>(multiple), pair.parity[id] = static_cast<uint8_t>(level & 1);
    }
    for (int slot = 0; slot < LookupPair::ODD_SLOTS; ++slot)
      pair.bytes.place[slot + q * LookupPair::ODD_SLOTS] = static_cast<uint8_t>(table.bytes.place[slot] + q * LookupPair::ODD_IDS);
    for (int i = 0; i < table.count; ++i) {
      const int level = level_of(table.first + table.index[i], raw_bits), place = i + q * LookupPair::ODD_IDS;
      const bool escape = table.escape && i == table.count - 1;
      pair.value[place] = static_cast<float>(multiple_of(level, q));
      pair.place_parity[place] = static_cast<uint8_t>((level & 1) * 8 | escape * 128);
    }
    if (table.escape) pair.escape[q] = static_cast<uint8_t>(pair.index[pair.count - 1]);
  }
  return pair;
}

// [batch, rows, k] as [panel][k][lanes of the panel], panels one after the other.
std::vector<int16_t> by_panels(const std::vector<int16_t>& levels, const Member& member) {
  std::vector<int16_t> turned(levels.size());
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
  for (Lookup& table : payload_.tables)
    for (int place = 0; place < table.count; ++place) {
      const int level = level_of(table.first + table.index[place], symbols.raw_bits);
      const bool escape = table.escape && place == table.count - 1;
      if (!grid && (escape || level < low || level > high)) return;
      if (escape) table.escape_place = static_cast<uint8_t>(place);
      table.value[place] = escape ? 0.0f : codebook ? member.centroids[static_cast<size_t>(level)] : static_cast<float>(level);
    }
  direct_ = true;
}

// All tiles, [panel, k, 64]: panels are numbered batch by batch, as in FORMAT.md.
void Weight::decode_once() {
  const int64_t panels = member().batch * member().panels_per_batch();
  float* values = dense_.floats(panels * member().k * PANEL_ROWS);
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
