// A weight as a sequence of tiles: [k steps][lanes] floats, k-major, so that a tile is already the packed panel of a micro-kernel.
#pragma once

#include <memory>

#include "format.h"

namespace onnx_compress {

// "A tile is at most 256 KB": it lives in the second-level cache of one core.
constexpr int64_t TILE_FLOATS = 65536;
constexpr int64_t TILE_STEPS = 256;

struct Tile {
  const float* values = nullptr;  // [last - first][stride]; lanes beyond `lanes` are zero
  int64_t stride = 0;             // lanes rounded up to 64
  int64_t batch = 0, row = 0, lanes = 0;
  int64_t first = 0, last = 0;  // steps of k
};

// One member of a payload, ready to be decoded by any number of threads: read-only once made.
class Weight {
 public:
  // Validates; decodes nothing of a chunked payload, all of a pool ("each of its consumers decodes it when the kernel is created and keeps
  // its own levels", 16 bits). `round_then`: a dtype that values are rounded to after their own, or 0.
  Weight(const uint8_t* data, uint64_t size, int64_t member, bool checksums, int round_then);

  const Member& member() const { return payload_.members[member_]; }
  const Payload& payload() const { return payload_; }
  // Parts that can be decoded independently, and those of a batch.
  int64_t pieces() const;
  int64_t pieces_per_batch() const { return pieces() / member().batch; }
  // The rows of a piece.
  int64_t piece_row(int64_t piece) const;
  // The piece that holds a row of batch 0.
  int64_t piece_of(int64_t row) const;

 private:
  friend class TileSource;
  Payload payload_;
  size_t member_;
  int round_then_;
  std::vector<int16_t> pooled_;    // [batch, rows, k]: levels, or multiples where they are trellis-coded
  std::vector<LookupPair> pairs_;  // [row class, column class] of trellis-coded levels
};

class PlanesSource;

// Yields the tiles of one piece, groups ascending, k ascending inside a group. At its end it checks that the stream ended as it should.
class TileSource {
 public:
  // `memory` holds TILE_FLOATS floats and outlives the source.
  TileSource(const Weight& weight, int64_t piece, float* memory);
  ~TileSource();
  bool next(Tile& tile);

 private:
  void open_chunk();
  void open_group();
  void load_tables();
  void load_scales(int64_t block);
  void load_groups();
  void load_columns(int64_t first, int64_t last);
  void decode_range(int64_t first, int64_t last, float* to);
  void pooled_range(int64_t first, int64_t last, float* to);
  void finish() const;

  const Weight& weight_;
  const Member& member_;
  int64_t piece_;
  float* memory_;
  int64_t batch_ = 0, row_ = 0, lanes_ = 0, group_ = 0, groups_ = 1, step_ = 0;
  const Chunk* chunk_ = nullptr;
  Stream stream_;
  Group plan_;
  Evaluation form_;
  std::vector<float> columns_;
  std::unique_ptr<PlanesSource> planes_;  // of a Planes weight, in the place of all of this
};

// The table of a symbol: "map[row_class[its panel or row], column_class[its k], q]".
const Lookup& table_of(const Payload& payload, const Symbols& symbols, int row_class, int column_class, int quantizer);

// Levels of one member of a pool, [batch, rows, k]; multiples where they are trellis-coded.
std::vector<int16_t> decode_pool(const Payload& payload, size_t member);

[[noreturn]] void throw_fault(int fault, const std::string& where);

}  // namespace onnx_compress
