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
const float* padded_input(const Run& run, const ConvPlan& plan, const Kernels& kernels, const float* x) {
  if (plan.padded->same()) return x;
  const int64_t channels = plan.geometry.images * plan.geometry.channels, volume = plan.padded->volume();
  float* to = input_memory(channels * volume);
  const int64_t parts = std::clamp<int64_t>(channels * volume / PADDED_TOGETHER, 1, channels);
  run.parallel(parts, [&](int64_t part) {
    for (int64_t channel = channels * part / parts; channel < channels * (part + 1) / parts; ++channel)
      plan.padded->fill(kernels, x + channel * plan.geometry.plane(), to + channel * volume);
  });
  return to;
}

// Floats of a panel, in whole vectors of lanes, that stay in the first-level cache while one block of positions after the other reads them.
constexpr int64_t PANEL_FLOATS = 8192, LANES_TOGETHER = 16;

// Steps of a tile, almost equal in all of them.
int64_t tile_steps(const Geometry& g, int64_t k) {
  const int64_t lanes = std::min(PANEL_ROWS, (g.group_outputs() + LANES_TOGETHER - 1) / LANES_TOGETHER * LANES_TOGETHER);
  const int64_t most = PANEL_FLOATS / lanes, tiles = std::max<int64_t>(1, (k + most / 2) / most);
  return (k + tiles - 1) / tiles;
}

// What becomes of sums.
struct Ends {
  const float *biases, *residual;
  const Activation& activation;
  const Kernels& kernels;

  Finish finish() const {
    Finish finish = activation.finish();
    finish.biases = biases, finish.residual = residual;
    return finish;
  }
};

// Some positions of some outputs of an image.
struct Part {
  int64_t image, output, lanes, first, last;

  int64_t offset(const Geometry& g) const { return (image * g.outputs + output) * g.positions() + first; }
  Sums sums(const Geometry& g, float* y) const { return {y + offset(g), lanes, last - first, g.positions()}; }
};

// What `Finish` leaves of the activation.
void activate(const Geometry& g, float* y, const Part& part, const Ends& ends) {
  const Sums sums = part.sums(g, y);
  const Ending ending = ends.activation.ending();
  if (!ends.activation.limits()) ends.kernels.end_rows(&sums, &ending);
}

// A convolution as a multiplication.
struct Multiplied {
  const Geometry& g;
  const Weight& weight;
  const PaddedInput& padded;
  const float* input;  // padded
  Ends ends;
  float* y;
  int64_t steps;  // of a tile
  int64_t rows;   // positions of a block

  TileWork work() const {
    const int64_t lanes = std::min<int64_t>(LANES_MAX, weight.member().panels_per_batch() * PANEL_ROWS), pixels = g.images * g.positions();
    return {pixels * g.outputs * weight.member().k, steps, pixels * lanes,
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
                             tile.first > 0,
                             tile.next(panel * PANEL_ROWS)};
    tile.kernels->multiply(&product);
    if (tile.last == weight.member().k) store(part, to);
  }

  void store(const Part& part, const float* sums) const {
    const int64_t offset = part.offset(g);
    const Transposition stored = {sums,       part.last - part.first, part.lanes,
                                  y + offset, g.positions(),          of_output(ends.finish(), part.output, offset)};
    ends.kernels.transpose(&stored);
    activate(g, y, part, ends);
  }
};

// Neighbours whose rows are at least so many floats apart are not fetched by the processor before they are asked for.
constexpr int64_t APART = 512;

// A convolution as a multiplication whose positions are neighbours that fill vectors: so many of them one after the other.
struct Neighbours {
  const Geometry& g;
  const Weight& weight;
  const PaddedInput& padded;
  const float* input;  // padded
  Ends ends;
  float* y;
  int64_t line;
  int64_t steps;  // of a tile
  int64_t parts;  // blocks of an image and a panel

  TileWork work() const {
    return {g.images * g.positions() * g.outputs * weight.member().k, steps, 0,
            [this](const Tile& tile) { return g.images * panels(tile) * parts; },
            [this](const Tile& tile, int64_t block, float*) { multiply(tile, block); }};
  }

 private:
  static int64_t panels(const Tile& tile) { return (tile.lanes + PANEL_ROWS - 1) / PANEL_ROWS; }
  // The first position of a part: whole lines, or whole vectors of the only one, in all but the last.
  int64_t begin(int64_t part) const {
    const int64_t unit = line < g.positions() ? line : weight.kernels().vector, units = (g.positions() + unit - 1) / unit;
    return std::min(units * part / parts * unit, g.positions());
  }

  // Some positions of one panel of one image; panels follow each other, because they read the same of x.
  void multiply(const Tile& tile, int64_t block) const {
    const int64_t panel = block % panels(tile), number = block / panels(tile) % parts, image = block / panels(tile) / parts;
    const int64_t output = tile.batch * weight.member().rows + tile.row + panel * PANEL_ROWS, end = begin(number + 1);
    const int64_t lanes = std::min(PANEL_ROWS, tile.lanes - panel * PANEL_ROWS);
    for (int64_t first = begin(number), last; first < end; first = last) {
      last = std::min(end, (first / line + 1) * line);
      multiply_line(tile, panel * PANEL_ROWS, {image, output, lanes, first, last});
    }
  }

  void multiply_line(const Tile& tile, int64_t lane, const Part& part) const {
    const bool finished = tile.last == weight.member().k;
    const PositionProduct product = {
        input + (part.image * g.channels + tile.batch * g.group_channels()) * padded.volume() + padded.start(part.first),
        padded.taps().data() + tile.first,
        tile.last - tile.first,
        part.last - part.first,
        tile.lane(lane),
        part.lanes,
        y + part.offset(g),
        g.positions(),
        tile.first > 0,
        finished ? of_output(ends.finish(), part.output, part.offset(g)) : UNFINISHED,
        line == g.positions() && padded.volume() >= APART,
        part.first == 0 && part.image == 0 ? tile.next(lane) : nullptr};
    tile.kernels->multiply_positions(&product);
    if (finished) activate(g, y, part, ends);
  }
};

// What a product costs where neighbours, not outputs, fill a vector; in products of a multiplication.
constexpr int64_t DIRECT_COST = 4;

// A convolution of groups of few outputs, each by itself.
struct Direct {
  const Geometry& g;
  const Weight& weight;
  const Phases& phases;
  const float* x;
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
    convolve_directly(phases, {tile, image, first, last}, x, ends.finish(), y);
    const int64_t output = tile.batch * weight.member().rows + tile.row + first;
    if (tile.last == weight.member().k) activate(g, y, {image, output, last - first, 0, g.positions()}, ends);
  }
};

class Conv : public WeightOperator {
 public:
  Conv(const Attributes& attributes, const Options& options)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), options),
        conv_(attributes),
        activation_(attributes),
        bias_(attributes, 2, "bias") {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Tensor x = run.input(0).value();
    const auto plan = plan_for(x.shape, *held);
    const Floats activations(x);
    const auto bias = bias_.of(run, plan->bias);
    const auto residual = optional_floats(run, 3, "residual", plan->y);
    Output y(run, plan->y, x.type);
    const Ends ends = {bias ? bias->data() : nullptr, residual ? residual->data() : nullptr, activation_, held->kernels()};
    convolve(run, *plan, *held, activations.data(), ends, y.data());
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
  static void convolve(const Run& run, const ConvPlan& plan, const Weight& weight, const float* x, const Ends& ends, float* y) {
    const Geometry& g = plan.geometry;
    const int64_t k = weight.member().k, outputs = std::min(PANEL_ROWS, g.group_outputs());
    if (plan.phases) {
      const int64_t lanes = part_rows(std::min<int64_t>(LANES_MAX, weight.member().rows), g.positions() * k * DIRECT_COST);
      share_tiles(run, weight, Direct{g, weight, *plan.phases, x, ends, y, lanes}.work());
      return;
    }
    const float* padded = padded_input(run, plan, weight.kernels(), x);
    const int64_t steps = tile_steps(g, k);
    if (plan.line == 0) {
      const int64_t rows = part_rows(g.positions(), outputs * steps);
      share_tiles(run, weight, Multiplied{g, weight, *plan.padded, padded, ends, y, steps, rows}.work());
    } else if (plan.line == g.positions()) {
      const int64_t parts = parts_of(g.positions(), outputs * k);
      share_tiles(run, weight, Neighbours{g, weight, *plan.padded, padded, ends, y, plan.line, TILE_FLOATS, parts}.work());
    } else {
      const int64_t parts = parts_of(g.positions(), outputs * steps);
      share_tiles(run, weight, Neighbours{g, weight, *plan.padded, padded, ends, y, plan.line, steps, parts}.work());
    }
  }

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
  OptionalFloats bias_;
  mutable std::shared_ptr<const ConvPlan> plan_;
};

}  // namespace

std::unique_ptr<Operator> make_conv(const Attributes& attributes, const Options& options) {
  return std::make_unique<Conv>(attributes, options);
}

}  // namespace onnx_compress
