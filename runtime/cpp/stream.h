// What decoding kernels share with the rest: plain structs, no templates of the standard library, because kernel files are compiled
// for several instruction sets and an inline function of theirs must never replace the baseline's at link time.
#pragma once

#include <cstdint>

namespace onnx_compress {

enum FormKind : int { FORM_SPARSE = 1, FORM_GRID = 2, FORM_CODEBOOK = 3, FORM_SYMBOLS = 4, FORM_PLANES = 5, FORM_MAPPED = 6 };

constexpr int LANES_MAX = 256;

// The classes left of one table, or of two (the odd one's from 16 on), by the byte: what shuffles look up.
template <int N>
struct ByteLookup {
  uint8_t place[N * 16] = {};  // of a slot: its class
  uint8_t less_one[N] = {};    // frequency - 1
  uint8_t biased[N] = {};      // start ^ 128, for signed comparisons
  uint8_t index[N] = {};
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
};

// The tables of the two quantizers of trellis-coded levels as one: slots of the odd one, and the ids of its classes, lie behind the even
// one's.
struct LookupPair {
  static constexpr int ODD_SLOTS = 256, ODD_IDS = 16;
  static constexpr uint8_t NO_ID = 255;
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
  bool small = true;  // every multiple has eight bits
};

// The sections of a chunk while it is being decoded.
struct Stream {
  alignas(64) uint16_t states[LANES_MAX];
  const uint8_t* bytes;  // rans section
  uint64_t position;
  uint64_t rans_bytes;
  uint64_t readable;  // bytes from `bytes` to the end of the payload: nothing beyond may be touched
  const uint8_t* raw;
  const uint8_t* escapes;
  uint64_t escapes_left;
  const uint8_t* values;
  uint64_t values_left;
  alignas(64) uint8_t trellis[LANES_MAX];  // states of trellis-coded levels
};

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
  uint64_t* sums;            // a lane
  const uint8_t* short_row;  // of the first lane, or null: no row is short
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

// y[m, lane] (+)= sum over k of x[m, k] * tile[k, lane], for 64 lanes.
struct Product {
  const float* x;
  int64_t x_row, x_step;  // strides of m and k
  int64_t m, k;
  const float* tile;
  int64_t tile_step;  // stride of k
  float* y;
  int64_t y_row;
  int accumulate;
};

// to[first[lane] + step] = from[step, lane], of words of `bytes` bytes; `first` is in bytes.
struct Transposition {
  const uint8_t* from;
  int64_t stride, steps, lanes, bytes;
  uint8_t* to;
  const int64_t* first;
};

// The functions that exist once for each instruction set:
// decode: steps `first` to `last` of a group into tile [step, panels * 64]; gives a StreamFault.
// planes: the same of a Planes weight, into words or floats.
// correlate: y[i] (+)= sum over taps of weights[tap] * sources[tap][i].
#define ONNX_COMPRESS_DECLARE_KERNELS                                                                                     \
  int decode(Stream* stream, const Group* group, const Evaluation* evaluation, int64_t first, int64_t last, float* tile); \
  int planes(Stream* stream, const Group* group, const PlanesPlan* split, int64_t first, int64_t last, void* tile);       \
  void transpose(const Transposition* job);                                                                               \
  void multiply(const Product* product);                                                                                  \
  void correlate(float* y, int64_t count, const float* const* sources, const float* weights, int64_t taps, int accumulate);

struct Kernels {
  const char* name;
  int (*decode)(Stream*, const Group*, const Evaluation*, int64_t, int64_t, float*);
  int (*planes)(Stream*, const Group*, const PlanesPlan*, int64_t, int64_t, void*);
  void (*transpose)(const Transposition*);
  void (*multiply)(const Product*);
  void (*correlate)(float*, int64_t, const float* const*, const float*, int64_t, int);
};

// The fastest set that this machine has.
const Kernels& kernels();

}  // namespace onnx_compress
