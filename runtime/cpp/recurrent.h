// What a recurrent layer is made of while it runs: sizes, states, and its recurrent matrix.
#pragma once

#include <atomic>

#include "operator.h"

namespace onnx_compress {

struct Extent {
  int64_t steps, batch, directions, hidden, gates;

  int64_t blocks() const { return (hidden + PANEL_ROWS - 1) / PANEL_ROWS; }
};

// Rows of x that R is multiplied with.
struct RecurrentProduct {
  const float* const* x;
  int64_t m;
  float* y;  // [m, 64]
};

// R of all directions, decoded, for one run of several steps: each step needs all of it. Panels [k][64] hold 64 units of one gate, so that
// the gates of a unit are in equal lanes; a gate's last panel is filled up with zeros.
//
// Where R is a grid with a scale a row and the gates are whole panels, levels are kept, in eight bits: a step reads a quarter of the
// memory, and multiplies by the scale at last. Other forms, and levels beyond -127..127 (`wide` remembers them), are kept as floats.
class RecurrentMatrix {
 public:
  RecurrentMatrix(const Run& run, const Weight& weight, int64_t gates, std::atomic<bool>& wide);
  // y = x * one panel
  void multiply(int64_t direction, int64_t gate, int64_t block, const RecurrentProduct& product) const;

 private:
  int64_t panel(int64_t direction, int64_t gate, int64_t block) const {
    return (direction * extent_.gates + gate) * extent_.blocks() + block;
  }
  int64_t panels() const { return panel(extent_.directions, 0, 0); }
  bool read_scales(const Weight& weight);
  // False where levels do not fit.
  bool decode(const Run& run, const Weight& weight);
  bool place(const Tile& tile);
  const Kernels& kernels_;
  Extent extent_;
  Buffer buffer_;
  std::vector<float> scales_, inverses_;  // a row
  std::vector<int64_t> offsets_;          // 0, 1, ..
  float* values_ = nullptr;
  int8_t* levels_ = nullptr;  // or values_
};

// The state of one run. Arrays are [direction, batch, unit] unless said otherwise.
struct Layer {
  Extent extent;
  const Kernels* kernels;
  bool backward[2] = {};                         // by direction
  bool starts_at_zero = false;                   // there is no initial h
  std::vector<int64_t> lengths{};                // [batch]: steps of each sequence
  std::vector<float> input{};                    // [direction, step, batch, gate, unit]: X * W
  std::vector<float> product{};                  // [direction, batch, gate, unit]: H * R, where there is one step; else empty
  std::unique_ptr<RecurrentMatrix> matrix{};     // where there are several
  std::vector<float> bias{};                     // [direction, gate, unit]
  std::vector<float> reset_bias{};               // [direction, unit]: of GRU's linear_before_reset
  std::vector<float> h[2]{}, c{}, z{}, reset{};  // h before and after even steps; of LSTM; of GRU
  float* y = nullptr;                            // [step, direction, batch, unit], or null

  int64_t place(int64_t direction, int64_t row) const { return (direction * extent.batch + row) * extent.hidden; }
};

// What a cell computes: at most 64 units of one sequence.
struct Row {
  int64_t direction, count, bias, state;  // bias, state: where its values begin in arrays of those names
  const float* input = nullptr;           // of the first gate; others follow every `hidden`
  const float* product = nullptr;         // or null; others follow every `product_gate`
  int64_t product_gate = 0;
  const float* before = nullptr;
  float* after = nullptr;
};

}  // namespace onnx_compress
