#include "share.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <thread>

namespace onnx_compress {
namespace {

// Products that take some 5 us: fewer are not worth what another thread waits for them.
constexpr int64_t LEAST_PRODUCTS = 1 << 19;
// What decoding a value costs, in products.
constexpr int64_t DECODING_COST = 16;
// More threads than this do not share one operator.
constexpr int64_t MOST_WORKERS = 64;
constexpr int64_t STAGE_FLOATS = TILE_FLOATS / 2, MICRO_ROWS = 6, LEAST_POSITIONS = 64;

// One tile, and which of its blocks nobody has begun, and how many nobody has finished. Who opened it begins at the first block, others at
// the last: so a block's sums stay in one core's cache from tile to tile.
class Stage {
 public:
  // All blocks of the tile before must be finished. Who takes a block acquires what is released here.
  void publish(int64_t piece, const Tile& tile, int64_t blocks, float* sums) {
    piece_ = piece, tile_ = tile, sums_ = sums;
    unfinished_.store(blocks, std::memory_order_relaxed);
    waiting_.store(static_cast<uint64_t>(blocks), std::memory_order_release);
  }

  // Does one block, if there is one that nobody has begun.
  bool work(const TileWork& work, FirstError& error, bool own) {
    int64_t block;
    uint64_t waiting = waiting_.load(std::memory_order_relaxed), left;
    do {
      const uint64_t first = waiting >> END_BITS, end = waiting & ((uint64_t{1} << END_BITS) - 1);
      if (first == end) return false;
      block = static_cast<int64_t>(own ? first : end - 1);
      left = own ? waiting + (uint64_t{1} << END_BITS) : waiting - 1;
    } while (!waiting_.compare_exchange_weak(waiting, left, std::memory_order_acquire, std::memory_order_relaxed));
    error.guard(piece_, [&] { work.multiply(tile_, block, sums_); });
    unfinished_.fetch_sub(1, std::memory_order_release);
    return true;
  }

  bool finished() const { return unfinished_.load(std::memory_order_acquire) == 0; }

 private:
  static constexpr int END_BITS = 32;

  int64_t piece_ = 0;
  Tile tile_;
  float* sums_ = nullptr;
  std::atomic<uint64_t> waiting_{0};  // of the blocks that nobody has begun the first, and in the lower half the one behind the last
  std::atomic<int64_t> unfinished_{0};
};

// The two tiles of the piece that a thread decodes: one is multiplied while the other is filled.
using Stages = std::array<Stage, 2>;

// Waits for another thread's block, some microseconds; where that takes longer, there may be fewer processors than threads.
class Patience {
 public:
  void wait() {
    if (++turns_ > 1024) std::this_thread::yield();
  }

 private:
  int turns_ = 0;
};

class Team {
 public:
  Team(const Weight& weight, const TileWork& work)
      : weight_(weight), work_(work), stages_(static_cast<size_t>(std::min(weight.pieces(), MOST_WORKERS))), unfinished_(weight.pieces()) {}

  // What one thread does: pieces as long as there are any that nobody has opened, then blocks of others' tiles.
  void take_part() {
    Stages* mine = nullptr;
    for (int64_t piece; (piece = next_.fetch_add(1, std::memory_order_relaxed)) < weight_.pieces();) {
      if (!mine) mine = &stages_[opened_.fetch_add(1, std::memory_order_relaxed)];
      error_.guard(piece, [&] { take_piece(piece, *mine); });
      for (Stage& stage : *mine) finish(stage);
      unfinished_.fetch_sub(1, std::memory_order_release);
    }
    idle_.fetch_add(1, std::memory_order_relaxed);
    for (Patience patience; unfinished_.load(std::memory_order_acquire) > 0;)
      if (!help()) patience.wait();
  }

  void rethrow() const { error_.rethrow(); }

 private:
  // Tiles are the same whether somebody helps or not, and so are the sums of their products.
  void take_piece(int64_t piece, Stages& stages) {
    TileSource source(weight_, piece);
    float* memory = tile_memory();
    Tile tile;
    const bool ahead = has_room_for_two(source.lanes());
    const int64_t floats = ahead ? STAGE_FLOATS : TILE_FLOATS;
    for (bool turn = false;;) {
      finish(stages[turn]);
      if (!source.next(tile, {memory + turn * floats, floats, work_.steps})) return;
      const bool whole = tile.first == 0 && tile.last == weight_.member().k;
      if (!whole) finish(stages[!turn]);  // it has the sums that this one goes on with
      float* sums = whole ? nullptr : pack_memory(work_.sums);
      stages[turn].publish(piece, tile, work_.blocks(tile), sums);
      if (idle_.load(std::memory_order_relaxed) > 0) turn = turn != ahead;  // else it stays in this core's cache
    }
  }

  // Whether two tiles share the memory: not where all steps have room in all of it only, and sums would need memory of their own.
  bool has_room_for_two(int64_t lanes) const {
    const int64_t step = (lanes + PANEL_ROWS - 1) / PANEL_ROWS * PANEL_ROWS, k = weight_.member().k;
    return work_.sums == 0 || step * std::min(k, work_.steps) <= STAGE_FLOATS || step * k > TILE_FLOATS;
  }

  void finish(Stage& stage) {
    while (stage.work(work_, error_, true)) {
    }
    for (Patience patience; !stage.finished();) patience.wait();
  }

  bool help() {
    const size_t opened = opened_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < opened; ++i)
      for (Stage& stage : stages_[i])
        if (stage.work(work_, error_, false)) return true;
    return false;
  }

  const Weight& weight_;
  const TileWork& work_;
  std::vector<Stages> stages_;
  std::atomic<size_t> opened_{0};
  std::atomic<int> idle_{0};
  std::atomic<int64_t> next_{0}, unfinished_;
  FirstError error_;
};

}  // namespace

void share_tiles(const Run& run, const Weight& weight, const TileWork& work) {
  Team team(weight, work);
  const int64_t products = work.products + weight.member().size() * DECODING_COST;
  run.parallel(std::clamp<int64_t>(products / LEAST_PRODUCTS, 1, MOST_WORKERS), [&](int64_t) { team.take_part(); });
  team.rethrow();
}

int64_t part_rows(int64_t rows, int64_t products_a_row) {
  const int64_t wanted = std::clamp<int64_t>(LEAST_PRODUCTS / products_a_row, MICRO_ROWS, PART_ROWS), parts = (rows + wanted - 1) / wanted;
  return (rows + parts * MICRO_ROWS - 1) / (parts * MICRO_ROWS) * MICRO_ROWS;
}

int64_t parts_of(int64_t positions, int64_t products_a_position) {
  const int64_t wanted = std::max<int64_t>(LEAST_PRODUCTS / products_a_position, LEAST_POSITIONS);
  return (positions + wanted - 1) / wanted;
}

}  // namespace onnx_compress
