// CompressedLSTM and CompressedGRU (FORMAT.md, section 8).
#include <algorithm>
#include <cmath>
#include <limits>

#include "linear.h"
#include "recurrent.h"

namespace onnx_compress {
namespace {

constexpr int64_t SLAB = 24;  // sequences that are multiplied together: a whole number of micro-kernel rows
// The units of a layer are split between threads, which then meet after every step, where sequences and directions are too few for that
// and a step takes far longer than the meeting.
constexpr int64_t SPLIT_STEP = 1 << 19;  // products of a step
constexpr int64_t FEW_TASKS = 4;

constexpr float NOTHING[PANEL_ROWS] = {};  // in the place of what is not there
constexpr int64_t LSTM_GATES = 4, GRU_GATES = 3;
enum Input : size_t { INPUT_X, INPUT_W, INPUT_R, INPUT_B, INPUT_LENGTHS, INPUT_H, INPUT_C, INPUT_P };

struct Slab {
  int64_t direction, first, last;  // sequences of the batch
};

class Recurrent : public Operator {
 public:
  Recurrent(const Attributes& attributes, const Options& options, int64_t gates);
  void compute(const Run& run) const override;

 private:
  void validate(const Weight& weight) const;
  Extent extent_of(const Run& run, const Weight& w, const Weight& r) const;
  Layer layer_of(const Run& run, const Extent& extent) const;
  void read_bias(const Run& run, Layer& layer) const;
  void multiply_inputs(const Run& run, const Weight& w, const Weight& r, Layer& layer) const;
  void run_layer(const Run& run, Layer& layer, const float* peepholes) const;
  void advance(Layer& layer, const Slab& slab, int64_t step, int phase, int64_t block, const float* peepholes) const;
  void lstm(Layer& layer, const Row& row, const float* peepholes) const;
  void gru(Layer& layer, const Row& row, int phase) const;
  // One step has a second phase where the reset state is what R multiplies.
  int phases() const { return gates_ == GRU_GATES && !linear_ ? 2 : 1; }

  int64_t gates_;
  const Kernels* kernels_;
  int64_t hidden_;
  std::string direction_;
  float clip_;
  bool linear_, input_forget_;
  HeldWeight w_, r_;
  OptionalFloats bias_;
  mutable std::atomic<bool> wide_{false};  // levels of R do not fit eight bits
};

WeightPlace place_of(const Attributes& attributes, size_t number) {
  const auto members = attributes.integers("members");
  if (!members.empty() && members.size() != 2) fail(Fault::argument, "attribute members has ", members.size(), " values, needs 2");
  return {INPUT_W + number, members.empty() ? 0 : members[number], static_cast<int>(attributes.integer("to", 0))};
}

Recurrent::Recurrent(const Attributes& attributes, const Options& options, int64_t gates)
    : gates_(gates),
      kernels_(options.kernels),
      hidden_(attributes.integer("hidden_size", 0)),
      direction_(attributes.string("direction")),
      clip_(attributes.real("clip", std::numeric_limits<float>::infinity())),
      linear_(attributes.integer("linear_before_reset", 0) != 0),
      input_forget_(attributes.integer("input_forget", 0) != 0),
      w_(place_of(attributes, 0), options, [this](const Weight& weight) { validate(weight); }),
      r_(place_of(attributes, 1), options, [this](const Weight& weight) { validate(weight); }),
      bias_(attributes, INPUT_B, "B") {
  if (direction_.empty()) direction_ = "forward";
  if (direction_ != "forward" && direction_ != "reverse" && direction_ != "bidirectional")
    fail(Fault::argument, "direction '", direction_, "' is unknown, legal are forward, reverse and bidirectional");
  if (hidden_ < 1) fail(Fault::argument, "hidden_size is ", hidden_, ", must be at least 1");
  w_.keep_constant(attributes);
  r_.keep_constant(attributes);
}

void Recurrent::validate(const Weight& weight) const {
  const Member& member = weight.member();
  const int64_t directions = direction_ == "bidirectional" ? 2 : 1;
  if (member.batch != directions || member.rows != gates_ * hidden_)
    fail(Fault::argument, "a weight seen as [", member.batch, ", ", member.rows, ", ", member.k, "] is not one of ", directions,
         " directions with ", gates_, " gates of ", hidden_, " units");
}

Extent Recurrent::extent_of(const Run& run, const Weight& w, const Weight& r) const {
  const Shape shape = run.input(INPUT_X).value().shape;
  if (shape.size() != 3 || shape[2] != w.member().k)
    fail(Fault::argument, "X has shape ", text_of(shape), ", it needs three axes, the last ", w.member().k);
  if (r.member().k != hidden_) fail(Fault::argument, "R multiplies ", r.member().k, " values, hidden_size is ", hidden_);
  return {shape[0], shape[1], w.member().batch, hidden_, gates_};
}

std::vector<int64_t> read_lengths(const Run& run, const Extent& extent) {
  std::vector<int64_t> lengths(static_cast<size_t>(extent.batch), extent.steps);
  const auto given = run.input(INPUT_LENGTHS);
  if (!given) return lengths;
  if (given->count() != extent.batch) fail(Fault::argument, "sequence_lens has ", given->count(), " values, the batch ", extent.batch);
  const auto* values = static_cast<const int32_t*>(given->data);
  for (size_t row = 0; row < lengths.size(); ++row) {
    lengths[row] = values[row];
    if (values[row] < 0 || values[row] > extent.steps)
      fail(Fault::argument, "sequence_lens[", row, "] is ", values[row], ", legal is 0..", extent.steps);
  }
  return lengths;
}

// A state of the start: zeros where it is not given.
std::vector<float> read_state(const Run& run, size_t index, const char* what, const Extent& extent) {
  const Shape shape = {extent.directions, extent.batch, extent.hidden};
  const auto given = optional_floats(run, index, what, shape);
  const size_t count = static_cast<size_t>(count_of(shape));
  return given ? std::vector<float>(given->data(), given->data() + count) : std::vector<float>(count, 0.0f);
}

Layer Recurrent::layer_of(const Run& run, const Extent& extent) const {
  Layer layer{extent, kernels_, {direction_ == "reverse", true}, !run.input(INPUT_H), read_lengths(run, extent)};
  layer.h[0] = read_state(run, INPUT_H, "initial_h", extent);
  layer.h[1].resize(layer.h[0].size());
  if (gates_ == LSTM_GATES) {
    layer.c = read_state(run, INPUT_C, "initial_c", extent);
  } else {
    layer.z.resize(layer.h[0].size());
    layer.reset.resize(layer.h[0].size());
  }
  read_bias(run, layer);
  return layer;
}

// "B holds Wb and Rb of all gates": their sum is added to all products, but where R's product is reset before the sum.
void Recurrent::read_bias(const Run& run, Layer& layer) const {
  const int64_t all = gates_ * hidden_, directions = layer.extent.directions;
  layer.bias.assign(static_cast<size_t>(directions * all), 0.0f);
  layer.reset_bias.assign(static_cast<size_t>(directions * hidden_), 0.0f);
  const auto given = bias_.of(run, {directions, 2 * all});
  if (!given) return;
  for (int64_t direction = 0; direction < directions; ++direction)
    for (int64_t i = 0; i < all; ++i) {
      const float* of = given->data() + direction * 2 * all + i;
      const bool apart = gates_ == GRU_GATES && linear_ && i >= 2 * hidden_;
      layer.bias[static_cast<size_t>(direction * all + i)] = apart ? of[0] : of[0] + of[all];
      if (apart) layer.reset_bias[static_cast<size_t>(direction * hidden_ + i - 2 * hidden_)] = of[all];
    }
}

void no_tail(const LinearJob&, int64_t, int64_t, int64_t, int64_t) {}

// X * W for all steps at once. With a single step H * R is a product of the same kind; a state of zeros needs none.
void Recurrent::multiply_inputs(const Run& run, const Weight& w, const Weight& r, Layer& layer) const {
  const Extent& e = layer.extent;
  const Floats x(run.input(INPUT_X).value());
  const int64_t all = gates_ * hidden_, rows = e.steps * e.batch;
  layer.input.resize(static_cast<size_t>(e.directions * rows * all));
  std::vector<LinearJob> jobs;
  for (int64_t direction = 0; direction < e.directions; ++direction)
    jobs.push_back({direction, x.data(), layer.input.data() + direction * rows * all, rows});
  multiply_weight(run, w, jobs, {w.member().k, 1}, no_tail);
  if (e.steps == 0 || (e.steps == 1 && layer.starts_at_zero)) return;
  if (e.steps > 1 || phases() > 1) {
    layer.matrix = std::make_unique<RecurrentMatrix>(run, r, gates_, wide_);
    return;
  }
  layer.product.resize(static_cast<size_t>(e.directions * e.batch * all));
  jobs.clear();
  for (int64_t direction = 0; direction < e.directions; ++direction)
    jobs.push_back({direction, layer.h[0].data() + layer.place(direction, 0), layer.product.data() + direction * e.batch * all, e.batch});
  multiply_weight(run, r, jobs, {hidden_, 1}, no_tail);
}

void Recurrent::compute(const Run& run) const {
  const auto w = w_.of(run), r = r_.of(run);
  const Extent e = extent_of(run, *w, *r);
  Layer layer = layer_of(run, e);
  const int type = run.input(INPUT_X)->type;
  Output y(run, {e.steps, e.directions, e.batch, e.hidden}, type, 0), last(run, {e.directions, e.batch, e.hidden}, type, 1);
  layer.y = y.data();
  const bool ragged = std::any_of(layer.lengths.begin(), layer.lengths.end(), [&](int64_t length) { return length < e.steps; });
  if (layer.y && ragged) std::fill(layer.y, layer.y + e.steps * static_cast<int64_t>(layer.h[0].size()), 0.0f);
  const auto peepholes = gates_ == LSTM_GATES ? optional_floats(run, INPUT_P, "P", {e.directions, 3 * hidden_}) : std::optional<Floats>();
  multiply_inputs(run, *w, *r, layer);
  run_layer(run, layer, peepholes ? peepholes->data() : nullptr);
  // "The last states of an empty sequence are zeros", as onnxruntime has it.
  std::vector<float>& h = layer.h[e.steps % 2];
  for (int64_t direction = 0; direction < e.directions; ++direction)
    for (int64_t row = 0; row < e.batch; ++row) {
      if (layer.lengths[static_cast<size_t>(row)]) continue;
      const int64_t place = layer.place(direction, row);
      std::fill_n(h.begin() + place, e.hidden, 0.0f);
      if (!layer.c.empty()) std::fill_n(layer.c.begin() + place, e.hidden, 0.0f);
    }
  if (last.data()) std::copy(h.begin(), h.end(), last.data());
  y.finish();
  last.finish();
  if (gates_ != LSTM_GATES) return;
  Output cell(run, {e.directions, e.batch, e.hidden}, type, 2);
  if (cell.data()) std::copy(layer.c.begin(), layer.c.end(), cell.data());
  cell.finish();
}

void Recurrent::run_layer(const Run& run, Layer& layer, const float* peepholes) const {
  const Extent& e = layer.extent;
  std::vector<Slab> slabs;
  for (int64_t direction = 0; direction < e.directions; ++direction)
    for (int64_t first = 0; first < e.batch; first += SLAB) slabs.push_back({direction, first, std::min(first + SLAB, e.batch)});
  const int64_t tasks = static_cast<int64_t>(slabs.size());
  if (tasks >= FEW_TASKS || gates_ * hidden_ * hidden_ * e.batch < SPLIT_STEP)
    return run.parallel(tasks, [&](int64_t task) {
      for (int64_t step = 0; step < e.steps; ++step)
        for (int phase = 0; phase < phases(); ++phase)
          for (int64_t block = 0; block < e.blocks(); ++block)
            advance(layer, slabs[static_cast<size_t>(task)], step, phase, block, peepholes);
    });
  for (int64_t step = 0; step < e.steps; ++step)
    for (int phase = 0; phase < phases(); ++phase)
      run.parallel(tasks * e.blocks(), [&](int64_t task) {
        advance(layer, slabs[static_cast<size_t>(task / e.blocks())], step, phase, task % e.blocks(), peepholes);
      });
}

// A block of 64 units of some sequences, one step (or one phase of it) further.
void Recurrent::advance(Layer& layer, const Slab& slab, int64_t step, int phase, int64_t block, const float* peepholes) const {
  const Extent& e = layer.extent;
  alignas(64) float products[LSTM_GATES * SLAB * PANEL_ROWS];
  constexpr int64_t GATE = SLAB * PANEL_ROWS;
  const std::vector<float>& before = layer.h[step % 2];
  const bool zero = step == 0 && layer.starts_at_zero;
  const int64_t first_gate = phase == 1 ? 2 : 0, last_gate = phases() == 2 && phase == 0 ? 2 : gates_;
  const float* x[SLAB];
  for (int64_t row = slab.first; row < slab.last; ++row)
    x[row - slab.first] = (phase == 1 ? layer.reset : before).data() + layer.place(slab.direction, row);
  for (int64_t gate = first_gate; gate < last_gate && layer.matrix && !zero; ++gate) {
    layer.matrix->multiply(slab.direction, gate, block, {x, slab.last - slab.first, products + gate * GATE});
  }
  const int64_t unit = block * PANEL_ROWS, all = gates_ * hidden_;
  for (int64_t row = slab.first; row < slab.last; ++row) {
    const int64_t length = layer.lengths[static_cast<size_t>(row)], state = layer.place(slab.direction, row) + unit;
    const int64_t count = std::min(PANEL_ROWS, hidden_ - unit);
    float* after = layer.h[1 - step % 2].data() + state;
    if (step >= length) {
      std::copy_n(before.data() + state, count, after);
      continue;
    }
    const int64_t at = layer.backward[slab.direction] ? length - 1 - step : step;
    Row one{slab.direction, count, slab.direction * all + unit, state};
    one.product = NOTHING;
    one.input = layer.input.data() + ((slab.direction * e.steps + at) * e.batch + row) * all + unit;
    if (layer.matrix && !zero) one.product = products + (row - slab.first) * PANEL_ROWS, one.product_gate = GATE;
    if (!layer.product.empty())
      one.product = layer.product.data() + (slab.direction * e.batch + row) * all + unit, one.product_gate = hidden_;
    one.before = before.data() + state, one.after = after;
    gates_ == LSTM_GATES ? lstm(layer, one, peepholes) : gru(layer, one, phase);
    if (layer.y && phase + 1 == phases())
      std::copy_n(after, count, layer.y + ((at * e.directions + slab.direction) * e.batch + row) * hidden_ + unit);
  }
}

GateInput gate_of(const Layer& layer, const Row& row, int64_t gate) {
  const int64_t hidden = layer.extent.hidden;
  return {row.input + gate * hidden, row.product == NOTHING ? NOTHING : row.product + gate * row.product_gate,
          layer.bias.data() + row.bias + gate * hidden};
}

void Recurrent::lstm(Layer& layer, const Row& row, const float* peepholes) const {
  LstmCell cell{};
  cell.count = row.count, cell.clip = clip_, cell.input_forget = input_forget_;
  for (int64_t gate = 0; gate < LSTM_GATES; ++gate) cell.gates[gate] = gate_of(layer, row, gate);
  const int64_t unit = row.bias - row.direction * gates_ * hidden_;
  for (int64_t gate = 0; gate < 3; ++gate)
    cell.peepholes[gate] = peepholes ? peepholes + (row.direction * 3 + gate) * hidden_ + unit : NOTHING;
  cell.c = layer.c.data() + row.state, cell.h = row.after;
  layer.kernels->lstm_cell(&cell);
}

// "h' = Wh x + r (Rh h + Rbh) + Wbh with linear_before_reset, else Wh x + Rh (r h) + Rbh + Wbh"
void Recurrent::gru(Layer& layer, const Row& row, int phase) const {
  float *z = layer.z.data() + row.state, *reset = layer.reset.data() + row.state;
  const GateInput last = gate_of(layer, row, 2);
  if (phase == 0) {
    GruGates gates{row.count, {gate_of(layer, row, 0), gate_of(layer, row, 1)}, row.before, NOTHING, clip_, z, reset};
    if (linear_) gates.source = last.product, gates.source_bias = layer.reset_bias.data() + row.bias - row.direction * 2 * hidden_;
    layer.kernels->gru_gates(&gates);
  }
  if (phase + 1 < phases()) return;
  const GruCell cell{row.count, {last.input, linear_ ? reset : last.product, last.bias}, z, row.before, clip_, row.after};
  layer.kernels->gru_cell(&cell);
}

}  // namespace

std::unique_ptr<Operator> make_lstm(const Attributes& attributes, const Options& options) {
  return std::make_unique<Recurrent>(attributes, options, LSTM_GATES);
}

std::unique_ptr<Operator> make_gru(const Attributes& attributes, const Options& options) {
  return std::make_unique<Recurrent>(attributes, options, GRU_GATES);
}

}  // namespace onnx_compress
