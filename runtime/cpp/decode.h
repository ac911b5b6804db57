// A weight as a sequence of tiles: [panels][k steps][64 lanes] floats, so that each panel is already what a micro-kernel consumes.
#pragma once

#include <memory>

#include "buffer.h"
#include "format.h"
#include "kernels.h"

namespace onnx_compress {

// "A tile is at most 256 KB": it lives in the second-level cache of one core.
constexpr int64_t TILE_FLOATS = 65536, SHARED_FLOATS = TILE_FLOATS / TOGETHER;

// What a session chose for its weights.
struct Options {
  bool checksums;          // verify all checksums when a weight is made
  const Kernels* kernels;  // never null
  bool dense = false;      // decode once, when a weight is made, and keep its floats
};

struct Tile {
  const float* values = nullptr;  // [panels][last - first][64]; lanes beyond `lanes` are zero
  int64_t panel_stride = 0;
  int64_t batch = 0, row = 0, lanes = 0;
  int64_t first = 0, last = 0;       // steps of k
  const Kernels* kernels = nullptr;  // what to multiply it with
  bool kept = false;                 // with all other tiles, so that panels have all steps of k

  // Step `first` of a lane; its next steps are PANEL_ROWS floats apart.
  const float* lane(int64_t lane) const { return values + lane / PANEL_ROWS * panel_stride + lane % PANEL_ROWS; }
  // The steps that are multiplied after those of the panel that begins with this lane; null where they are not there yet.
  const float* next(int64_t panel) const {
    if (!kept) return nullptr;
    if (panel + PANEL_ROWS < lanes) return lane(panel + PANEL_ROWS);
    return lane(last * PANEL_ROWS < panel_stride ? 0 : panel) + (last - first) * PANEL_ROWS;
  }
};

// One member of a payload, ready to be decoded by any number of threads: read-only once made.
class Weight {
 public:
  // Validates; decodes nothing of a chunked payload, all of a pool ("each of its consumers decodes it when the kernel is created and keeps
  // its own levels", 16 bits); all of any where `options` say dense, and then its bytes are not read again. `round_then`: a dtype that
  // values are rounded to after their own, or 0.
  Weight(const uint8_t* data, uint64_t size, int64_t member, const Options& options, int round_then);

  const Member& member() const { return payload_.members[member_]; }
  const Payload& payload() const { return payload_; }
  const Kernels& kernels() const { return *kernels_; }
  // Whether values are rounded to 16 bits after the arithmetic of their form.
  bool rounds() const { return round_then_ != 0 || member().dtype == FLOAT16 || member().dtype == BFLOAT16; }
  // Whether a TileSource can multiply without making a tile: the sum of levels is scaled, so values must not be rounded one by one.
  bool multiplies() const { return kernels_->direct && direct_ && !payload_.pooled && !rounds() && values_ == nullptr; }
  // Parts that can be decoded independently, and those of a batch.
  int64_t pieces() const;
  int64_t pieces_per_batch() const { return pieces() / member().batch; }
  // The rows of a piece, from the first to behind the last.
  int64_t piece_row(int64_t piece) const;
  int64_t piece_end(int64_t piece) const;
  // The piece that holds a row of batch 0.
  int64_t piece_of(int64_t row) const;
  // The group of a piece that holds a row.
  int64_t group_of(int64_t piece, int64_t row) const;

 private:
  friend class TileSource;
  void prepare_tables();
  void prepare_direct();
  void decode_once();
  // Where the panel that holds this row of a batch stands among the floats of a dense weight, [panel, k, 64].
  int64_t dense_place(int64_t batch, int64_t row) const;
  Payload payload_;
  size_t member_;
  const Kernels* kernels_;
  int round_then_;
  std::vector<int16_t>
      pooled_;  // [panel][k][lanes of the panel], and a panel's room behind: levels, or multiples where they are trellis-coded
  std::vector<LookupPair> pairs_;  // [row class, column class] of trellis-coded levels
  // As in Group.
  bool direct_ = false, narrow_ = true, half_values_ = true, small_levels_ = true;
  Buffer dense_;                   // the tiles of all steps
  const float* values_ = nullptr;  // of dense_, once they are all there
};

// Where a tile goes, and what has room there.
struct Room {
  float* memory;
  int64_t floats = TILE_FLOATS, steps = TILE_FLOATS;
};

class PlanesSource;

// Yields the tiles of one piece, groups ascending, k ascending inside a group. At its end it checks that the stream ended as it should.
class TileSource {
 public:
  TileSource(const Weight& weight, int64_t piece);
  // Of its tiles.
  int64_t lanes() const { return lanes_; }
  // As many steps as have room.
  bool next(Tile& tile, const Room& room);
  // The next tiles of TOGETHER sources of one weight that are in step, decoded side by side where they are of one panel each, into
  // SHARED_FLOATS each from `memory` on. False where they have ended, all at once.
  static bool next_together(TileSource* const* sources, Tile* tiles, float* memory);
  // The whole piece multiplied with one row of x as it is decoded: y[row] = sum over k of x[k] * value. For weights that `multiplies`.
  void multiply(const float* x, float* y);

 private:
  void open_chunk();
  void open_stream();
  void open_group();
  void load_tables();
  void load_scales(int64_t block);
  void load_groups();
  void load_columns(int64_t first, int64_t last);
  bool next_group();
  Tile begin_tile(const Room& room) const;
  void fill(const Tile& tile, float* memory);
  static void decode_side_by_side(TileSource* const* sources, const Tile* tiles, float* memory);
  void check(int fault) const;
  void decode_range(const Range& range);
  void pooled_range(const Range& range);
  void coded_step(const int16_t* levels, float* to) const;
  void round_step(float* to) const;
  void finish() const;

  const Weight& weight_;
  const Member& member_;
  int64_t piece_;
  int64_t batch_ = 0, row_ = 0, lanes_ = 0, group_ = 0, groups_ = 1, step_ = 0;
  const Chunk* chunk_ = nullptr;
  Stream stream_{};
  Group plan_{};
  Evaluation form_{};
  std::vector<float> columns_;
  std::shared_ptr<PlanesSource> planes_;  // of a Planes weight, in the place of all of this
};

// The table of a symbol: "map[row_class[its panel or row], column_class[its k], q]".
const Lookup& table_of(const Payload& payload, const Symbols& symbols, int row_class, int column_class, int quantizer);

// Levels of one member of a pool, [batch, rows, k]; multiples where they are trellis-coded.
std::vector<int16_t> decode_pool(const Payload& payload, size_t member);

[[noreturn]] void throw_fault(int fault, const std::string& where);

}  // namespace onnx_compress
