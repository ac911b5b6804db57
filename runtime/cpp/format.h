// A parsed payload: plain structs that point into its bytes (FORMAT.md, sections 2 to 7).
#pragma once

#include <vector>

#include "error.h"
#include "stream.h"

namespace onnx_compress {

enum Dtype : int {
  FLOAT = 1,
  UINT8 = 2,
  INT8 = 3,
  UINT16 = 4,
  INT16 = 5,
  INT32 = 6,
  INT64 = 7,
  FLOAT16 = 10,
  DOUBLE = 11,
  UINT32 = 12,
  UINT64 = 13,
  BFLOAT16 = 16,
  FLOAT8E4M3FN = 17,
  FLOAT8E4M3FNUZ = 18,
  FLOAT8E5M2 = 19,
  FLOAT8E5M2FNUZ = 20,
  UINT4 = 21,
  INT4 = 22
};
enum DenseKind : uint8_t { DENSE_FLOAT = 0, DENSE_HALF = 1, DENSE_BFLOAT = 2, DENSE_LOG8 = 3 };

constexpr int64_t PANEL_ROWS = 64;

// A leaf of floats. Its bytes stay where they are in the payload; `at` evaluates one.
struct Dense {
  DenseKind kind = DENSE_FLOAT;
  uint64_t count = 0;
  int exponent = 0;
  const uint8_t* bytes = nullptr;

  float at(uint64_t index) const;
};

struct Symbols {
  int raw_bits = 0;
  int escape_base = 0;
  int row_classes = 1, column_classes = 1, quantizers = 1;
  const uint8_t* map = nullptr;       // [row class, column class, quantizer], or null: all table 0
  std::vector<uint8_t> row_class;     // a panel, in a pool a row; or empty: all 0
  std::vector<uint8_t> column_class;  // a column; or empty: all 0
};

// Of each class index of a table, 256 times the probability that the top raw bit is 0; as long as `look_up` wants it.
struct Cuts {
  uint8_t of_index[32];
};

// How the bits of a Planes weight are split.
struct Split {
  int planes = 0, drop = 0, short_bits = 0;
  bool delta = false;
  uint64_t base = 0;
  std::vector<uint8_t> short_row;  // a row; or empty: none is short
  std::vector<Cuts> cuts;          // a table; or empty: the top raw bit is not coded

  // Bits of a raw part that are coded.
  int coded_bits() const { return cuts.empty() ? 0 : 1; }
};

struct Member {
  int dtype = 0;
  std::vector<int64_t> dims;
  std::vector<int> permutation;
  int64_t batch = 1, rows = 1, k = 1;
  FormKind form = FORM_SYMBOLS;
  Dense scale;                         // Grid, Codebook, Mapped; count 0: none
  Dense column_scale;                  // Grid; count 0: none
  int64_t block = 0;                   // Grid
  std::vector<float> centroids;        // Codebook, Mapped
  int64_t groups = 1;                  // Mapped
  std::vector<uint8_t> row_group;      // Mapped: a row; or empty: all 0
  DenseKind value_kind = DENSE_FLOAT;  // Sparse
  Split split;                         // Planes
  Symbols symbols;

  int64_t size() const { return batch * rows * k; }
  int64_t panels_per_batch() const { return (rows + PANEL_ROWS - 1) / PANEL_ROWS; }
  // Centroids that a row's codes choose from.
  int64_t codes() const { return static_cast<int64_t>(centroids.size()) / groups; }
  int64_t first_centroid(int64_t row) const { return row_group.empty() ? 0 : row_group[static_cast<size_t>(row)] * codes(); }
  bool integer() const { return form == FORM_SYMBOLS; }
};

// One stream of a chunked payload: which rows it codes and where its bytes are.
struct Chunk {
  int64_t batch = 0, first_row = 0, lanes = 0, groups = 0;
  uint64_t offset = 0, rans_bytes = 0, raw_bytes = 0, escapes = 0, values = 0, size = 0;
  uint32_t crc = 0;
};

struct Pool {
  int64_t lanes = 0;
  uint64_t offset = 0, rans_bytes = 0, raw_bytes = 0, escapes = 0;
  uint32_t crc = 0;
};

struct Payload {
  const uint8_t* data = nullptr;
  uint64_t size = 0;
  bool pooled = false;
  std::vector<Lookup> tables;
  std::vector<Member> members;
  std::vector<Chunk> chunks;  // chunked
  Pool pool;                  // pooled
};

// Parses and validates the header; reads no stream. Throws Error.
Payload parse(const uint8_t* data, uint64_t size);

// Compares every checksum of streams; throws Error (corruption) with the number of the first that differs.
void verify_checksums(const Payload& payload);

int64_t integer_low(int dtype);
int64_t integer_high(int dtype);

}  // namespace onnx_compress
