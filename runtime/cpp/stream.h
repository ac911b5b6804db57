// What decoding kernels share with the rest: plain structs, no templates of the standard library, because kernel files are compiled
// for several instruction sets and an inline function of theirs must never replace the baseline's at link time.
#pragma once

#include <cstdint>

namespace onnx_compress {

enum FormKind : int { FORM_SPARSE = 1, FORM_GRID = 2, FORM_CODEBOOK = 3, FORM_SYMBOLS = 4, FORM_PLANES = 5, FORM_MAPPED = 6 };

constexpr int LANES_MAX = 256;
constexpr int TOGETHER = 4;  // streams of one panel that are decoded side by side

// The classes left of one table, or of two (the odd one's from 16 on), by the byte: what shuffles look up.
template <int N>
struct ByteLookup {
  alignas(64) uint8_t place[N * 16] = {};  // of a slot: its class
  uint8_t less_one[N] = {};                // frequency - 1
  uint8_t biased[N] = {};                  // start ^ 128, for signed comparisons
  uint8_t start[N] = {};
  uint8_t index[N] = {};
  uint8_t frequency[N] = {};  // 0: 256
  uint8_t level[N] =
      {};  // with `small_levels`: of a raw part of 0, ^ 128; of pairs the multiple ^ 128 without raw bits, else the level, or NO_LEVEL
  uint8_t turned[N] = {};  // 127 - start
  uint8_t node[N] = {};    // a tree of comparisons, see `search_tree`
};

// The same by couples of slots, 2 * i and 2 * i + 1, whose classes are one or two that follow each other. An id stands for a class and a
// couple's slot: twice the place of its first slot, plus 1 for the second where that is of the next class. So a class has two ids,
// 2 * place - 1 and 2 * place; frequencies and starts are kept for each.
template <int N>
struct CoupleLookup {
  alignas(64) uint8_t id[N * 8] = {};  // by couple: of its second slot; "& (slot | ~1)" is that of either
  alignas(64) uint8_t less_one[N * 2] = {};
  uint8_t start[N * 2] = {};
  alignas(64) uint8_t frequency[N * 2] = {};
};

// A table without its classes of frequency zero, which no slot can find.
struct Lookup {
  int count = 1;   // classes left
  int first = 0;   // class value of class index 0
  int escape = 0;  // 1: the last class is the escape
  uint16_t start[16] = {};
  uint16_t frequency[16] = {};
  uint16_t index[16] = {};  // class index in the full table
  ByteLookup<16> bytes;
  // By place, for weights that are decoded directly (`Group::direct`).
  alignas(64) float value[16] = {};  // what is multiplied with the scale, without raw bits
  uint8_t value_bytes[4][16] = {};   // its bytes, the lowest first
  uint8_t escape_place = 255;        // 255: none
  uint8_t escape_id = 255;           // the lower one; 255: none
  CoupleLookup<16> couples;
  alignas(64) float id_value[32] = {};  // `value` by id
};

// The tables of the two quantizers of trellis-coded levels as one: slots of the odd one, and the ids of its classes, lie behind the even
// one's.
struct LookupPair {
  static constexpr int ODD_SLOTS = 256, ODD_IDS = 16;
  static constexpr uint8_t NO_ID = 255, NO_LEVEL = 127, ODD = 32, ESCAPE = 128;
  int count = 0;                       // classes of both
  int counts[2] = {};                  // of each
  int first[2] = {};                   // class values of class index 0
  uint8_t escape[2] = {NO_ID, NO_ID};  // ids of the escapes
  uint16_t start[32] = {};
  uint16_t frequency[32] = {};
  uint16_t index[32] = {};  // ids: class index, plus 16 in the odd table
  ByteLookup<32> bytes;
  // By id, where there are no raw bits: the multiple and the parity of its level.
  int8_t multiple[32] = {};
  uint8_t parity[32] = {};
  bool small = true;         // every multiple has eight bits
  bool small_levels = true;  // as in Group
  // By place, as in Lookup.
  alignas(64) float value[32] = {};  // the multiple, of a raw part of 0; 0 for an escape
  uint8_t place_parity[32] = {};     // 8 where the level is odd, 128 where it is an escape
  CoupleLookup<32> couples;          // ids of the odd one begin at 2 * ODD_IDS
  // By id: the place, plus ODD where the level is odd with a raw part of 0 (not of an escape without raw bits), plus ESCAPE where it is
  // one.
  alignas(64) uint8_t kind[64] = {};
  // With one raw bit b and `small_levels`, by place, plus ODD where b is 0: the upper half of the multiple's bits as a float; that of 2 * b
  // for an escape.
  alignas(64) uint16_t bit_value[64] = {};
};

// The tree of comparisons that finds a slot's class in four steps: `id = 2 * id + (slot >= node[id])`, from id 1; leaf 16 + place then is
// reached, whatever the number of classes. A pair has one tree, from id 2 in the even quantizer and 3 in the odd one, and ends at leaf
// 32 + place. Nodes are what a slot ^ 127, whose order is the other way round, must be below, as signed bytes.
//
// The sections of a chunk while it is being decoded. Why no byte outside the payload is read and none outside the tile written, whatever
// the bytes are; nothing of this depends on a checksum:
// * rans: what a stream consumes depends on its bytes, so nothing that the header says bounds it. "A step so consumes at most L rans bytes,
//   and the heads behind them are 2 * L: one comparison after each step bounds every read." A step begins only where position <=
//   rans_bytes, so it ends inside the heads. Vectors read more than they take: a step begins only where all that it may read lies before
//   `readable`, else it reads a copy (`feed`) or is left to plain code (`last_start`). What is fetched ahead is not read.
// * raw: the header's k, groups and r give its length, and that many bits are taken whatever the others are.
// * escapes and values: counted down with each that is taken; `escapes_seen` stays within those left.
// * Tables are total: every slot has a class, whose place is below 32, and whose state stays in 16 bits. Levels that index something
//   (centroids) are compared with their range first, or for a whole table when a weight is made.
// * Writes: a step writes one float a lane, groups and steps are counted by the header, and `Range` says where.
struct Stream {
  alignas(64) uint16_t states[LANES_MAX];
  const uint8_t* bytes;  // rans section
  uint64_t position;
  uint64_t rans_bytes;
  uint64_t readable;  // bytes from `bytes` to the end of the payload: nothing beyond may be touched
  const uint8_t* raw;
  const uint8_t* escapes;
  uint64_t escapes_left;
  uint64_t escapes_seen;  // of those left: what has been looked at before it is taken
  const uint8_t* values;
  uint64_t values_left;
  alignas(64) uint8_t trellis[LANES_MAX];  // states of trellis-coded levels
};

// What panels have the same table: those of all steps, those of a step, or none.
enum Sharing : int { SHARED_BY_NONE, SHARED_IN_STEP, SHARED_BY_ALL };

// A group of lanes that advance together.
struct Group {
  int lanes;
  int panels;
  int raw_bits;
  int escape_base;
  int quantizers;
  const Lookup* tables[4][16];     // [panel, column class]; with two quantizers:
  const LookupPair* pairs[4][16];  // in their place
  const uint8_t* column_class;     // a step, or null
  bool direct;                     // value = scale * (the value of the class + the raw part), whatever the form
  bool narrow;                     // no frequency is above 127
  bool half_values;                // `value` needs the upper half of its bits only
  bool small_levels;               // levels, and multiples, have eight bits whatever their raw parts are
  Sharing sharing;
};

// Steps to decode, and where to: float `lane` of panel p in step s is tile[p * panel_stride + (s - first) * 64 + lane].
//
// Or, with x: tile[p * panel_stride + lane] += x[s - first] * (what is multiplied with the scale), for weights that are decoded directly;
// steps that are not are added to `scaled`, with their scale.
struct Range {
  int64_t first, last;
  float* tile;
  int64_t panel_stride;
  const float* x = nullptr;
  float* scaled = nullptr;
};

// How levels become floats.
struct Evaluation {
  FormKind form;
  int value_kind;               // Sparse: a DenseKind
  int round_first, round_then;  // dtypes to round to, 0: none
  int low, high;                // legal levels of Symbols, Codebook, Mapped
  const float* centroids;
  const float* column_scale;  // of the first step, or null
  int has_scale;
  alignas(64) float scale[LANES_MAX];
  alignas(64) int32_t base[LANES_MAX];  // Mapped: the first centroid of the row's group
};

// How words are put together from symbols and raw bytes: Planes (kernel_planes.cc).
struct PlanesPlan {
  int width;     // bits of a word
  int exponent;  // bits of a float's exponent, 0: integers
  int planes, drop, short_bits;
  int escape_bytes;
  int delta;
  int floats;  // a dtype: tiles of floats instead of words; 0: words
  uint64_t base;
  uint64_t* sums;              // a lane
  uint64_t shorts[4];          // of each panel: a bit a lane, set where its row is short
  bool cut;                    // the top raw bit is coded
  const uint8_t* cuts[4][16];  // [panel, column class]: where, by class index (32 bytes)
};

// Steps of a group into a tile [panels][last - first][64] of words or floats.
struct PlanesRange {
  int64_t first, last;
  void* to;
};

// Bits of a byte plane (0: the most significant) that short rows store: those above the `short_bits` lowest of all planes.
constexpr int kept_bits(int planes, int short_bits, int plane) {
  const int kept = 8 * (planes - plane) - short_bits;
  return kept < 0 ? 0 : kept > 8 ? 8 : kept;
}

enum StreamFault : int {
  STREAM_OK = 0,
  STREAM_OVERRUN,
  STREAM_ESCAPES,
  STREAM_UNUSED_BIT,
  STREAM_RANGE,
  STREAM_VALUES,
};

}  // namespace onnx_compress
