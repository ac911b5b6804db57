// The tiles of a weight, shared between the threads of a run.
#pragma once

#include "operator.h"

namespace onnx_compress {

// What is done with each tile, in blocks that may run at the same time. Tiles of the same lanes come one after the other, k ascending.
struct TileWork {
  int64_t products;  // of all blocks of all tiles, which says how many threads are worth waking
  int64_t steps;     // of a tile, at most
  int64_t sums;      // floats that a piece keeps from tile to tile, where its tiles do not have all steps
  std::function<int64_t(const Tile&)> blocks;
  std::function<void(const Tile&, int64_t block, float* sums)> multiply;
};

// Whoever opens a piece decodes all of it, a tile ahead of what is multiplied; blocks go to whichever thread is free. So nothing is decoded
// twice, a weight of one piece keeps several threads busy, and what is summed in which order depends on no thread.
void share_tiles(const Run& run, const Weight& weight, const TileWork& work);

// Rows of x that one block takes of `rows`: as many as are worth another thread's while, at most PART_ROWS; blocks are of almost equal
// size, a whole number of micro-kernel rows.
constexpr int64_t PART_ROWS = 96;
int64_t part_rows(int64_t rows, int64_t products_a_row);
// In how many parts of that kind, of any size, positions are best taken that are neighbours: each then fills vectors.
int64_t parts_of(int64_t positions, int64_t products_a_position);

}  // namespace onnx_compress
