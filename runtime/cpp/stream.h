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
  uint8_t escape_place = 255;        // 255: none
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
  // By place, as in Lookup.
  float value[32] = {};           // the multiple, of a raw part of 0
  uint8_t place_parity[32] = {};  // 8 where the level is odd, 128 where it is an escape
};

// The sections of a chunk while it is being decoded. Why no byte outside the payload is read and none outside the tile written, whatever
// the bytes are; nothing of this depends on a checksum:
// * rans: what a stream consumes depends on its bytes, so nothing that the header says bounds it. "A step so consumes at most L rans bytes,
//   and the heads behind them are 2 * L: one comparison after each step bounds every read." A step begins only where position <=
//   rans_bytes, so it ends inside the heads. Vectors read more than they take: a step begins only where all that it may read lies before
//   `readable`, else it reads a copy (`feed`) or is left to plain code (`last_start`).
// * raw: the header's k, groups and r give its length, and that many bits are taken whatever the others are.
// * escapes and values: counted down with each that is taken.
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
  uint64_t* sums;            // a lane
  const uint8_t* short_row;  // of the first lane, or null: no row is short
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

// to[first[lane] + step] = from[step * 64 + lane], of words of `bytes` bytes; `first` is in bytes.
struct Turn {
  const uint8_t* from;
  int64_t steps, lanes, bytes;
  uint8_t* to;
  const int64_t* first;
};

enum StreamFault : int {
  STREAM_OK = 0,
  STREAM_OVERRUN,
  STREAM_ESCAPES,
  STREAM_UNUSED_BIT,
  STREAM_RANGE,
  STREAM_VALUES,
};

// y[m, lane] (+)= sum over k of x[m][offsets[k]] * tile[k, lane], for the first `lanes` lanes of a panel, in whole vectors: what lies
// behind them in y, up to lane 64, may be overwritten.
struct Product {
  const float* const* x;  // one pointer a row
  const int64_t* offsets;
  int64_t m, k;
  const float* tile;  // [k, 64]
  int64_t lanes;
  float* y;
  int64_t y_row;
  int accumulate;
};

// Neighbours in a row of a plane.
struct Span {
  int64_t from, to, count;
};

// y[span.to + i] (+)= sum over taps of weights[tap] * sources[tap][span.from + i] + bias, for spans of at most a vector.
struct Correlation {
  const float* const* sources;  // readable for a vector behind every span
  const float* weights;
  int64_t taps;
  const Span* spans;
  int64_t span_count;
  float* y;
  float bias;
  int accumulate;
};

enum ActivationKind : int {
  ACTIVATION_NONE = 0,
  ACTIVATION_RELU,
  ACTIVATION_CLIP,
  ACTIVATION_LEAKY_RELU,
  ACTIVATION_HARD_SIGMOID,
  ACTIVATION_SIGMOID,
  ACTIVATION_TANH,
  ACTIVATION_MUL_HARD_SIGMOID,
  ACTIVATION_MUL_SIGMOID,
};

// Finished sums: rows of `count` values, `stride` apart.
struct Sums {
  float* values;
  int64_t rows, count, stride;
};

// What happens to them: act(value + biases[i] + residual[row * stride + i]).
struct Ending {
  const float *biases, *residual;  // or null
  ActivationKind activation;
  float first, second;  // its parameters

  bool nothing() const { return !biases && !residual && activation == ACTIVATION_NONE; }
};

// y[m, lane] = scale[lane] * sum over k of x[m][k] * levels[k, lane], for the 64 lanes of a panel.
struct LevelProduct {
  const float* const* x;
  int64_t m, k;
  const int8_t* levels;  // [k, 64]
  const float* scale;
  float* y;  // [m, 64]
};

// levels[k, lane] = values[k, lane] * inverse[lane], rounded, in an order of lanes that `multiply_levels` knows.
struct LevelPack {
  const float *values, *inverse;
  int64_t k;
  int8_t* levels;
};

// What a gate sums: rows of X * W, of H * R and a bias, each of the layer's units.
struct GateInput {
  const float *input, *product, *bias;
};

// One row of an LSTM layer: `count` units; gates and peepholes in the order i, o, f, c.
struct LstmCell {
  int64_t count;
  GateInput gates[4];
  const float* peepholes[3];
  float clip;
  int input_forget;
  float* c;  // before and after
  float* h;
};

// One row of a GRU layer: z, and r times source + source_bias.
struct GruGates {
  int64_t count;
  GateInput gates[2];
  const float *source, *source_bias;
  float clip;
  float *z, *reset;
};

struct GruCell {
  int64_t count;
  GateInput gate;
  const float *z, *before;
  float clip;
  float* h;
};

// The functions that exist once for each instruction set:
// decode: a range of steps of a group; gives a StreamFault.
// decode_together: TOGETHER ranges of one weight's streams, each of one panel, as many steps of all as it can: ranges become what is left.
// transpose: to[lane * to_row + m] = from[m * 64 + lane] + bias[lane] of a panel; without bias where it is null.
// copy_spans: to[span.to + i] = from[span.from + i * stride], for i below span.count.
// planes: a range of steps of a Planes weight; gives a StreamFault.
// pack_levels: 1 where a level has more than eight bits, else 0.
#define ONNX_COMPRESS_DECLARE_KERNELS                                                                                                   \
  int decode(Stream* stream, const Group* group, const Evaluation* evaluation, const Range* range);                                     \
  void decode_together(Stream* const* streams, const Group* const* groups, const Evaluation* const* forms, Range* ranges, int* faults); \
  void multiply(const Product* product);                                                                                                \
  void transpose(const float* from, int64_t m, int64_t lanes, const float* bias, float* to, int64_t to_row);                            \
  void correlate(const Correlation* correlation);                                                                                       \
  void copy_spans(const float* from, const Span* spans, int64_t span_count, int64_t stride, float* to);                                 \
  void end_rows(const Sums* sums, const Ending* ending);                                                                                \
  int pack_levels(const LevelPack* pack);                                                                                               \
  void multiply_levels(const LevelProduct* product);                                                                                    \
  void lstm_cell(const LstmCell* cell);                                                                                                 \
  void gru_gates(const GruGates* gates);                                                                                                \
  void gru_cell(const GruCell* cell);                                                                                                   \
  int planes(Stream* stream, const Group* group, const PlanesPlan* split, const PlanesRange* range);                                    \
  void turn_words(const Turn* turn);

struct Kernels {
  const char* name;
  int vector;   // floats
  bool direct;  // decodes weights of Group::direct in registers, and so may multiply as it decodes
  int (*decode)(Stream*, const Group*, const Evaluation*, const Range*);
  void (*decode_together)(Stream* const*, const Group* const*, const Evaluation* const*, Range*, int*);
  void (*multiply)(const Product*);
  void (*transpose)(const float*, int64_t, int64_t, const float*, float*, int64_t);
  void (*correlate)(const Correlation*);
  void (*copy_spans)(const float*, const Span*, int64_t, int64_t, float*);
  void (*end_rows)(const Sums*, const Ending*);
  int (*pack_levels)(const LevelPack*);
  void (*multiply_levels)(const LevelProduct*);
  void (*lstm_cell)(const LstmCell*);
  void (*gru_gates)(const GruGates*);
  void (*gru_cell)(const GruCell*);
  int (*planes)(Stream*, const Group*, const PlanesPlan*, const PlanesRange*);
  void (*turn_words)(const Turn*);
};

}  // namespace onnx_compress
