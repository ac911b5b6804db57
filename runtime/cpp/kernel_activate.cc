// Activations behind products; recurrent layers: products with levels of eight bits, and gates. Compiled for several instruction sets.
#include "kernels.h"
#include "vector_math.h"

namespace onnx_compress {
namespace ONNX_COMPRESS_ISA {
ONNX_COMPRESS_DECLARE_KERNELS
namespace {

typedef int32_t Integers __attribute__((vector_size(VECTOR_BYTES)));
// Levels of 4 * FLOATS lanes are one vector: bits 8 * q to 8 * q + 7 of its element j are those of lane q * FLOATS + j. Shifts widen them.
constexpr int COLUMNS = 4, SPAN = COLUMNS * FLOATS;
// Accumulators, and a vector of weights for each column, must fit the registers.
#if VECTOR_BYTES == 64 || defined(__aarch64__)
constexpr int ROWS = 6, MANY_APART = 4;
#else
constexpr int ROWS = 2, MANY_APART = 1;
#endif

// MANY rows of x with COLUMNS vectors of lanes from `lane` on; APART steps have sums of their own, because a sum waits for the one before.
template <int MANY, int APART>
void multiply_block(const LevelProduct& p, int64_t row, int64_t lane) {
  const float* x[MANY];
  for (int m = 0; m < MANY; ++m) x[m] = p.x[row + m];
  const int8_t* levels = p.levels + lane;
  Floats sum[APART][MANY][COLUMNS] = {};
  const auto step = [&](int64_t k, int apart) __attribute__((always_inline)) {
    Integers packed;
    std::memcpy(&packed, levels + k * PANEL, sizeof packed);
    Floats weight[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) weight[c] = __builtin_convertvector(packed << (24 - 8 * c) >> 24, Floats);
#pragma GCC unroll 6
    for (int m = 0; m < MANY; ++m)
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) sum[apart][m][c] += x[m][k] * weight[c];
  };
  int64_t k = 0;
  for (; k + APART <= p.k; k += APART)
#pragma GCC unroll 4
    for (int apart = 0; apart < APART; ++apart) step(k + apart, apart);
  for (; k < p.k; ++k) step(k, 0);
#pragma GCC unroll 6
  for (int m = 0; m < MANY; ++m)
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) {
      Floats all = sum[0][m][c];
#pragma GCC unroll 4
      for (int apart = 1; apart < APART; ++apart) all += sum[apart][m][c];
      const int64_t at = lane + c * FLOATS;
      store_some(p.y + (row + m) * PANEL + at, all * load_some(p.scale + at, FLOATS), FLOATS);
    }
}

void multiply_rest(const LevelProduct& p, int64_t row, int64_t lane) {
  switch (p.m - row) {
    case 1:
      return multiply_block<1, MANY_APART>(p, row, lane);
    case 2:
      return multiply_block<2, 2>(p, row, lane);
    case 3:
      return multiply_block<3, 1>(p, row, lane);
    case 4:
      return multiply_block<4, 1>(p, row, lane);
    case 5:
      return multiply_block<5, 1>(p, row, lane);
    default:
      return;
  }
}

// A place in the units of a layer: a vector from `at` on, of which `left` units exist.
struct Units {
  int64_t at, left;

  Floats of(const float* values) const { return load_some(values + at, left); }
  void put(float* values, Floats floats) const { store_some(values + at, floats, left); }
  Floats sum(const GateInput& gate) const { return of(gate.input) + of(gate.product) + of(gate.bias); }
};

// Calls work(units) for all units of a layer. Loops are kept short: what a vector waits for is then hidden by its neighbours.
template <class Work>
inline void for_units(int64_t count, const Work& work) {
  int64_t at = 0;
  for (; at + FLOATS <= count; at += FLOATS) work(Units{at, FLOATS});
  if (at < count) work(Units{at, count - at});
}

}  // namespace

namespace {

// "HardSigmoid: max(0, min(1, alpha * x + beta))"
inline Floats hard_sigmoid(Floats x, const Ending& ending) { return clamp(x * ending.first + ending.second, all(0.0f), all(1.0f)); }

// Whether biases and a residual are added is known to the compiler, which then keeps the loop of a row short.
template <bool BIASES, bool RESIDUAL, class Activate>
inline void end_each(const Sums& sums, const Ending& ending, const Activate& activate) {
  for (int64_t row = 0; row < sums.rows; ++row) {
    const int64_t offset = row * sums.stride;
    for_units(sums.count, [&](Units units) {
      Floats value = units.of(sums.values + offset);
      if (BIASES) value += units.of(ending.biases);
      if (RESIDUAL) value += units.of(ending.residual + offset);
      units.put(sums.values + offset, activate(value));
    });
  }
}

template <class Activate>
inline void end_with(const Sums& sums, const Ending& ending, const Activate& activate) {
  if (ending.biases) return ending.residual ? end_each<true, true>(sums, ending, activate) : end_each<true, false>(sums, ending, activate);
  return ending.residual ? end_each<false, true>(sums, ending, activate) : end_each<false, false>(sums, ending, activate);
}

}  // namespace

void end_rows(const Sums* sums, const Ending* ending) {
  const Sums s = *sums;
  const Ending e = *ending;
  switch (e.activation) {
    case ACTIVATION_RELU:
      return end_with(s, e, [](Floats x) { return larger(all(0.0f), x); });
    case ACTIVATION_CLIP:
      return end_with(s, e, [&](Floats x) { return clamp(x, all(e.first), all(e.second)); });
    case ACTIVATION_LEAKY_RELU:
      return end_with(s, e, [&](Floats x) { return x < 0.0f ? x * e.first : x; });
    case ACTIVATION_HARD_SIGMOID:
      return end_with(s, e, [&](Floats x) { return hard_sigmoid(x, e); });
    case ACTIVATION_SIGMOID:
      return end_with(s, e, [](Floats x) { return sigmoid(x); });
    case ACTIVATION_TANH:
      return end_with(s, e, [](Floats x) { return hyperbolic_tangent(x); });
    case ACTIVATION_MUL_HARD_SIGMOID:
      return end_with(s, e, [&](Floats x) { return x * hard_sigmoid(x, e); });
    case ACTIVATION_MUL_SIGMOID:
      return end_with(s, e, [](Floats x) { return x * sigmoid(x); });
    default:
      return end_with(s, e, [](Floats x) { return x; });
  }
}

int pack_levels(const LevelPack* pack) {
  Integers wide{};
  for (int64_t k = 0; k < pack->k; ++k)
    for (int64_t span = 0; span < PANEL; span += SPAN) {
      Integers packed{};
      for (int c = 0; c < COLUMNS; ++c) {
        const int64_t lane = span + c * FLOATS;
        const Floats level = load_some(pack->values + k * PANEL + lane, FLOATS) * load_some(pack->inverse + lane, FLOATS);
        wide |= (level < -127.5f) | (level > 127.5f);
        packed |= (__builtin_convertvector(level + (level < 0.0f ? all(-0.5f) : all(0.5f)), Integers) & 255) << (8 * c);
      }
      std::memcpy(pack->levels + k * PANEL + span, &packed, sizeof packed);
    }
  for (int i = 1; i < FLOATS; ++i) wide[0] |= wide[i];
  return wide[0] != 0;
}

void multiply_levels(const LevelProduct* product) {
  const LevelProduct p = *product;
  for (int64_t lane = 0; lane < PANEL; lane += SPAN) {
    int64_t row = 0;
    for (; row + ROWS <= p.m; row += ROWS) multiply_block<ROWS, 1>(p, row, lane);
    multiply_rest(p, row, lane);
  }
}

// "i = sigmoid(clip(i' + P_i c)), f = 1 - i where input_forget, else sigmoid(clip(f' + P_f c)), c = f c + i tanh(clip(c')), o =
// sigmoid(clip(o' + P_o c)), h = o tanh(c)"
void lstm_cell(const LstmCell* cell) {
  const LstmCell one = *cell;
  const Floats high = all(one.clip), low = -high;
  const auto gate = [&](Units units, int number, Floats c) {
    return sigmoid(clamp(units.sum(one.gates[number]) + units.of(one.peepholes[number]) * c, low, high));
  };
  for_units(one.count, [&](Units units) {
    const Floats before = units.of(one.c), i = gate(units, 0, before);
    const Floats f = one.input_forget ? 1.0f - i : gate(units, 2, before);
    units.put(one.c, f * before + i * hyperbolic_tangent(clamp(units.sum(one.gates[3]), low, high)));
  });
  for_units(one.count, [&](Units units) {
    const Floats c = units.of(one.c);
    units.put(one.h, gate(units, 1, c) * hyperbolic_tangent(c));
  });
}

// "z = sigmoid(clip(z')), r = sigmoid(clip(r')); what is reset, times r"
void gru_gates(const GruGates* gates) {
  const GruGates one = *gates;
  const Floats high = all(one.clip), low = -high;
  for_units(one.count, [&](Units units) {
    units.put(one.z, sigmoid(clamp(units.sum(one.gates[0]), low, high)));
    const Floats r = sigmoid(clamp(units.sum(one.gates[1]), low, high));
    units.put(one.reset, r * (units.of(one.source) + units.of(one.source_bias)));
  });
}

// "h = (1 - z) tanh(clip(h')) + z h"
void gru_cell(const GruCell* cell) {
  const GruCell one = *cell;
  const Floats high = all(one.clip), low = -high;
  for_units(one.count, [&](Units units) {
    const Floats z = units.of(one.z), candidate = hyperbolic_tangent(clamp(units.sum(one.gate), low, high));
    units.put(one.h, (1.0f - z) * candidate + z * units.of(one.before));
  });
}

}  // namespace ONNX_COMPRESS_ISA
}  // namespace onnx_compress
