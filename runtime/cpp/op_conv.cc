// CompressedConv: act(conv(X, w) + bias + residual) (FORMAT.md, section 8).
#include <algorithm>

#include "activation.h"
#include "conv_plan.h"
#include "share.h"

namespace onnx_compress {
namespace {

// Inputs of fewer floats are padded by one thread: others would take longer to wake.
constexpr int64_t PADDED_TOGETHER = 1 << 17;

// The input with its padding, [image, channel, padded position]; the input itself where there is none.
const float* padded_input(const Run& run, const ConvPlan& plan, const float* x) {
  if (plan.padded->same()) return x;
  const int64_t channels = plan.geometry.images * plan.geometry.channels, volume = plan.padded->volume();
  float* to = input_memory(channels * volume);
  const int64_t parts = std::clamp<int64_t>(channels * volume / PADDED_TOGETHER, 1, channels);
  run.parallel(parts, [&](int64_t part) {
    for (int64_t channel = channels * part / parts; channel < channels * (part + 1) / parts; ++channel)
      plan.padded->fill(x + channel * plan.geometry.plane(), to + channel * volume);
  });
  return to;
}

struct Ends {
  const std::optional<Floats>& residual;
  const Activation& activation;
  const Kernels& kernels;
};

// Some positions of some outputs of an image.
struct Part {
  int64_t image, output, lanes, first, last;
};

void finish_rows(const Geometry& g, float* y, const Part& part, const Ends& ends) {
  const int64_t offset = (part.image * g.outputs + part.output) * g.positions() + part.first;
  const Sums sums = {y + offset, part.lanes, part.last - part.first, g.positions()};
  Ending ending = ends.activation.ending();
  if (ends.residual) ending.residual = ends.residual->data() + offset;
  if (!ending.nothing()) ends.kernels.end_rows(&sums, &ending);
}

// A convolution as a multiplication.
struct Multiplied {
  const Geometry& g;
  const Weight& weight;
  const PaddedInput& padded;
  const float *input, *bias;  // padded; a value an output, or null
  Ends ends;
  float* y;
  int64_t rows;  // positions of a block

  TileWork work() const {
    const int64_t lanes = std::min<int64_t>(LANES_MAX, weight.member().panels_per_batch() * PANEL_ROWS), pixels = g.images * g.positions();
    return {pixels * g.outputs * weight.member().k, TILE_FLOATS, pixels * lanes,
            [this](const Tile& tile) { return g.images * panels(tile) * parts(); },
            [this](const Tile& tile, int64_t block, float* sums) { multiply(tile, block, sums); }};
  }

 private:
  static int64_t panels(const Tile& tile) { return (tile.lanes + PANEL_ROWS - 1) / PANEL_ROWS; }
  int64_t parts() const { return (g.positions() + rows - 1) / rows; }

  // Some positions of one panel of one image.
  void multiply(const Tile& tile, int64_t block, float* sums) const {
    const int64_t first = block % parts() * rows, panel = block / parts() % panels(tile), image = block / parts() / panels(tile);
    const int64_t output = tile.batch * weight.member().rows + tile.row + panel * PANEL_ROWS;
    const Part part = {image, output, std::min(PANEL_ROWS, tile.lanes - panel * PANEL_ROWS), first, std::min(first + rows, g.positions())};
    float* to = sums ? sums + ((image * panels(tile) + panel) * g.positions() + first) * PANEL_ROWS : pack_memory(PART_ROWS * PANEL_ROWS);
    const int64_t many = part.last - part.first;
    const float* x[PART_ROWS];
    padded.rows(input + (image * g.channels + tile.batch * g.group_channels()) * padded.volume(), first, many, x);
    const Product product = {x,
                             padded.taps().data() + tile.first,
                             many,
                             tile.last - tile.first,
                             tile.lane(panel * PANEL_ROWS),
                             part.lanes,
                             to,
                             PANEL_ROWS,
                             tile.first > 0};
    tile.kernels->multiply(&product);
    if (tile.last == weight.member().k) store(part, to);
  }

  void store(const Part& part, const float* sums) const {
    float* to = y + (part.image * g.outputs + part.output) * g.positions() + part.first;
    weight.kernels().transpose(sums, part.last - part.first, part.lanes, bias ? bias + part.output : nullptr, to, g.positions());
    finish_rows(g, y, part, ends);
  }
};

// What a product costs where neighbours, not outputs, fill a vector; in products of a multiplication.
constexpr int64_t DIRECT_COST = 4;

// A convolution of groups of few outputs, each by itself.
struct Direct {
  const Geometry& g;
  const Weight& weight;
  const Phases& phases;
  const float *x, *bias;
  Ends ends;
  float* y;
  int64_t lanes;  // of a block

  TileWork work() const {
    return {g.images * g.positions() * g.outputs * weight.member().k * DIRECT_COST, TILE_FLOATS, 0,
            [this](const Tile& tile) { return g.images * ((tile.lanes + lanes - 1) / lanes); },
            [this](const Tile& tile, int64_t block, float*) { multiply(tile, block); }};
  }

 private:
  void multiply(const Tile& tile, int64_t block) const {
    const int64_t image = block % g.images, first = block / g.images * lanes, last = std::min(first + lanes, tile.lanes);
    convolve_directly(phases, {tile, image, first, last}, x, bias, y);
    const int64_t output = tile.batch * weight.member().rows + tile.row + first;
    if (tile.last == weight.member().k) finish_rows(g, y, {image, output, last - first, 0, g.positions()}, ends);
  }
};

class Conv : public WeightOperator {
 public:
  Conv(const Attributes& attributes, const Options& options)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), options), conv_(attributes), activation_(attributes) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Tensor x = run.input(0).value();
    const auto plan = plan_for(x.shape, *held);
    const Geometry& g = plan->geometry;
    const Floats activations(x);
    const auto bias = optional_floats(run, 2, "bias", {g.outputs});
    const auto residual = optional_floats(run, 3, "residual", g.shape());
    Output y(run, g.shape(), x.type);
    const float *in = activations.data(), *biases = bias ? bias->data() : nullptr;
    const Ends ends = {residual, activation_, held->kernels()};
    const int64_t k = held->member().k;
    if (plan->phases) {
      const int64_t lanes = part_rows(std::min<int64_t>(LANES_MAX, held->member().rows), g.positions() * k * DIRECT_COST);
      const Direct layer = {g, *held, *plan->phases, in, biases, ends, y.data(), lanes};
      share_tiles(run, *held, layer.work());
    } else {
      const int64_t rows = part_rows(g.positions(), std::min(PANEL_ROWS, g.group_outputs()) * k);
      const Multiplied layer = {g, *held, *plan->padded, padded_input(run, *plan, in), biases, ends, y.data(), rows};
      share_tiles(run, *held, layer.work());
    }
    y.finish();
  }

 protected:
  void validate(const Weight& weight) const override {
    const Member& member = weight.member();
    for (size_t axis = 0; axis < member.permutation.size(); ++axis)
      if (member.permutation[axis] != static_cast<int>(axis))
        fail(Fault::argument, "a weight with permuted axes is not one that Conv multiplies with");
  }

 private:
  // The last plan serves as long as the shape and the weight are the same.
  std::shared_ptr<const ConvPlan> plan_for(const Shape& x, const Weight& weight) const {
    auto plan = std::atomic_load(&plan_);
    if (plan && plan->x == x && constant()) return plan;
    plan = std::make_shared<const ConvPlan>(conv_, x, weight);
    std::atomic_store(&plan_, plan);
    return plan;
  }

  ConvAttributes conv_;
  Activation activation_;
  mutable std::shared_ptr<const ConvPlan> plan_;
};

}  // namespace

std::unique_ptr<Operator> make_conv(const Attributes& attributes, const Options& options) {
  return std::make_unique<Conv>(attributes, options);
}

}  // namespace onnx_compress
