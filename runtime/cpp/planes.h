// Planes: the bits of a weight as symbols and raw bytes (FORMAT.md, sections 5 and 6), decoded to words or to floats.
#pragma once

#include "decode.h"

namespace onnx_compress {

// Yields the tiles of one piece of a Planes weight, as TileSource does, with words of the weight's own width in the place of floats, or
// (`floats`, for the dtypes that a fused operator takes) with the values that they are.
class PlanesSource {
 public:
  PlanesSource(const Weight& weight, int64_t piece, bool floats);
  bool next(Tile& tile, const Room& room);

 private:
  void open_chunk();
  void open_group();
  void finish() const;

  const Weight& weight_;
  const Member& member_;
  int64_t piece_;
  const Chunk& chunk_;
  int64_t row_, group_ = 0, step_ = 0;
  Stream stream_;
  Group plan_;
  PlanesPlan split_;
  std::vector<uint64_t> sums_;
};

// Bytes of a value of a dtype; 4-bit types take one.
int64_t element_bytes(int dtype);

// Bits of a value of a dtype that Planes may have, and of its exponent; 0 for others.
int planes_width(int dtype);
int planes_exponent(int dtype);

// Bytes of an escaped value.
int escape_bytes(const Member& member);

// Bytes of the planes section of a chunk, whose rows start at `first` of all batches.
uint64_t planes_bytes(const Member& member, int64_t first, int64_t groups, int64_t lanes);

// Whether the exact bits of the weight are asked for, which are not to go through floats.
inline bool wants_words(const Member& member, int type) { return member.form == FORM_PLANES && member.dtype == type; }

// The words of a tile's panel: [last - first][64].
const uint8_t* panel_words(const Tile& tile, int64_t panel, int64_t bytes);

// Stores a lane of a tile of words from element `offset` of `to` on.
void store_lane_words(const Tile& tile, int64_t lane, int64_t bytes, void* to, int64_t offset);

}  // namespace onnx_compress
