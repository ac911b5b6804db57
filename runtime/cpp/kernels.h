// What the kernels are asked to do, and the table of them: plain structs, as in stream.h.
#pragma once

#include "stream.h"

namespace onnx_compress {

// to[first[lane] + step] = from[step * 64 + lane], of words of `bytes` bytes; `first` is in bytes.
struct Turn {
  const uint8_t* from;
  int64_t steps, lanes, bytes;
  uint8_t* to;
  const int64_t* first;
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
  const float* next;  // [k, 64], what is multiplied after this tile, to be fetched ahead; null where that is nowhere yet
};

// What is added to the sums of outputs once they are finished, and the limits that they are kept in.
struct Finish {
  const float *biases, *residual;  // a value an output, one a sum where y has it; or null
  float low, high;
};
constexpr Finish UNFINISHED = {nullptr, nullptr, -__builtin_inff(), __builtin_inff()};

// y[output, position] (+)= sum over k of x[offsets[k] + position] * tile[k, output], finished: needs no transposition where positions are
// neighbours.
struct PositionProduct {
  const float* x;
  const int64_t* offsets;
  int64_t k, count;
  const float* tile;  // [k, 64]
  int64_t outputs;
  float* y;  // [outputs, count], rows `y_row` floats apart
  int64_t y_row;
  int accumulate;
  Finish finish;
  int apart;          // whether steps read rows that are so far apart that the processor does not fetch them by itself
  const float* next;  // as in Product
};

// to[lane * to_row + m] = from[m * 64 + lane] for the first `lanes` lanes of a panel, which are outputs, finished.
struct Transposition {
  const float* from;
  int64_t m, lanes;
  float* to;
  int64_t to_row;
  Finish finish;
};

// Neighbours in a row of a plane.
struct Span {
  int64_t from, to, count;
};

// A plane whose even and odd rows and columns are set apart: (y, x) goes to to[(y % 2 * 2 + x % 2) * part + y / 2 * row + x / 2]. What lies
// behind a row there, up to a vector, may be overwritten before the next one is written.
struct Separation {
  const float* from;
  int64_t rows, columns;
  float* to;
  int64_t part, row;
};

// A vector of neighbours in a padded plane, of which only the lanes whose bits are set are values, next to each other elsewhere: outputs,
// or what is not padding.
struct Patch {
  int64_t position, index;  // of its first neighbour, of its first value
  uint32_t lanes;
};

// y[index ...] (+)= sum over taps of weights[tap * 64] * from[offsets[tap] + position + lane], for the lanes of each patch, finished.
struct Correlation {
  const float* from;
  const int64_t* offsets;
  const float* weights;
  int64_t taps;
  const Patch* patches;
  int64_t patch_count;
  const uint16_t* masks;  // [tap, patch]: the lanes that are read, others are 0, of patches that follow each other; null: all are read
  float* y;
  int accumulate;
  Finish finish;
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

// to[step, lane] = scale[lane] * column_scale[step] * levels[step * lanes + lane], for the 64 lanes of a panel, whatever `lanes` is: what
// lies behind those of the last step must be readable.
struct PooledSteps {
  const int16_t* levels;
  int64_t lanes, count;
  const float *scale, *column_scale;  // the latter null: 1
  float* to;
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
// spread: to[position ...] = a vector with the values from[index ...] in a patch's lanes, and zeros between them.
// copy_spans: to[span.to + i] = from[span.from + i * stride], for i below span.count.
// planes: a range of steps of a Planes weight; gives a StreamFault.
// pack_levels: 1 where a level has more than eight bits, else 0.
#define ONNX_COMPRESS_DECLARE_KERNELS                                                                                                   \
  int decode(Stream* stream, const Group* group, const Evaluation* evaluation, const Range* range);                                     \
  void decode_together(Stream* const* streams, const Group* const* groups, const Evaluation* const* forms, Range* ranges, int* faults); \
  void multiply(const Product* product);                                                                                                \
  void multiply_positions(const PositionProduct* product);                                                                              \
  void transpose(const Transposition* transposition);                                                                                   \
  void correlate(const Correlation* correlation);                                                                                       \
  void copy_spans(const float* from, const Span* spans, int64_t span_count, int64_t stride, float* to);                                 \
  void separate(const Separation* separation);                                                                                          \
  void spread(const float* from, const Patch* patches, int64_t patch_count, float* to);                                                 \
  void end_rows(const Sums* sums, const Ending* ending);                                                                                \
  int pack_levels(const LevelPack* pack);                                                                                               \
  void multiply_levels(const LevelProduct* product);                                                                                    \
  void lstm_cell(const LstmCell* cell);                                                                                                 \
  void gru_gates(const GruGates* gates);                                                                                                \
  void gru_cell(const GruCell* cell);                                                                                                   \
  int planes(Stream* stream, const Group* group, const PlanesPlan* split, const PlanesRange* range);                                    \
  void turn_words(const Turn* turn);                                                                                                    \
  void scale_levels(const PooledSteps* steps);

struct Kernels {
  const char* name;
  int vector;   // floats
  bool masked;  // may be given a Correlation with masks
  bool direct;  // has a decoder for weights of Group::direct, which may multiply as it decodes
  int (*decode)(Stream*, const Group*, const Evaluation*, const Range*);
  void (*decode_together)(Stream* const*, const Group* const*, const Evaluation* const*, Range*, int*);
  void (*multiply)(const Product*);
  void (*multiply_positions)(const PositionProduct*);
  void (*transpose)(const Transposition*);
  void (*correlate)(const Correlation*);
  void (*copy_spans)(const float*, const Span*, int64_t, int64_t, float*);
  void (*separate)(const Separation*);
  void (*spread)(const float*, const Patch*, int64_t, float*);
  void (*end_rows)(const Sums*, const Ending*);
  int (*pack_levels)(const LevelPack*);
  void (*multiply_levels)(const LevelProduct*);
  void (*lstm_cell)(const LstmCell*);
  void (*gru_gates)(const GruGates*);
  void (*gru_cell)(const GruCell*);
  int (*planes)(Stream*, const Group*, const PlanesPlan*, const PlanesRange*);
  void (*turn_words)(const Turn*);
  void (*scale_levels)(const PooledSteps*);
};

}  // namespace onnx_compress
