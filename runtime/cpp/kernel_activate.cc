// The gates of recurrent layers. Compiled for several instruction sets.
#include "vector_math.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

// A place in the units of a layer: vectors from `at` on, of which `left` units exist.
struct Units {
  int64_t at, left;

  // Zeros where there are no values.
  Floats of(const float* values) const { return values ? load_some(values + at, left) : Floats{}; }
  void put(float* values, Floats floats) const { store_some(values + at, floats, left); }
  Floats sum(const GateInput& gate) const { return of(gate.input) + of(gate.product) + of(gate.bias); }
};

}  // namespace

// "i = sigmoid(clip(i' + P_i c)), f = 1 - i where input_forget, else sigmoid(clip(f' + P_f c)), c = f c + i tanh(clip(c')), o =
// sigmoid(clip(o' + P_o c)), h = o tanh(c)"
void lstm_cell(const LstmCell* cell) {
  const Floats high = all(cell->clip), low = -high;
  for (Units units{0, cell->count}; units.left > 0; units.at += FLOATS, units.left -= FLOATS) {
    const Floats before = units.of(cell->c);
    const auto gate = [&](int number, const float* peephole, Floats c) {
      return sigmoid(clamp(units.sum(cell->gates[number]) + units.of(peephole) * c, low, high));
    };
    const Floats i = gate(0, cell->peepholes[0], before);
    const Floats f = cell->input_forget ? 1.0f - i : gate(2, cell->peepholes[2], before);
    const Floats c = f * before + i * hyperbolic_tangent(clamp(units.sum(cell->gates[3]), low, high));
    units.put(cell->c, c);
    units.put(cell->h, gate(1, cell->peepholes[1], c) * hyperbolic_tangent(c));
  }
}

// "z = sigmoid(clip(z')), r = sigmoid(clip(r')); what is reset, times r"
void gru_gates(const GruGates* gates) {
  const Floats high = all(gates->clip), low = -high;
  for (Units units{0, gates->count}; units.left > 0; units.at += FLOATS, units.left -= FLOATS) {
    units.put(gates->z, sigmoid(clamp(units.sum(gates->gates[0]), low, high)));
    const Floats r = sigmoid(clamp(units.sum(gates->gates[1]), low, high));
    units.put(gates->reset, r * (units.of(gates->source) + units.of(gates->source_bias)));
  }
}

// "h = (1 - z) tanh(clip(h')) + z h"
void gru_cell(const GruCell* cell) {
  const Floats high = all(cell->clip), low = -high;
  for (Units units{0, cell->count}; units.left > 0; units.at += FLOATS, units.left -= FLOATS) {
    const Floats z = units.of(cell->z), candidate = hyperbolic_tangent(clamp(units.sum(cell->gate), low, high));
    units.put(cell->h, (1.0f - z) * candidate + z * units.of(cell->before));
  }
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
