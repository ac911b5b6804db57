// CompressedConv: act(conv(X, w) + bias + residual) (FORMAT.md, section 8).
#include <algorithm>

#include "activation.h"
#include "direct_conv.h"
#include "share.h"

namespace onnx_compress {
namespace {

// The input with its padding, [image, channel, padded position]; the input itself where there is none.
class Padded {
 public:
  Padded(const Run& run, const Geometry& g, const float* x) : data_(x), row_(g.in[2]), plane_(g.in[1] * g.in[2]), volume_(g.plane()) {
    int64_t padding = 0;
    for (int axis = 0; axis < 3; ++axis) padding += g.before[axis] + g.after[axis];
    if (padding == 0) return;
    row_ = g.in[2] + g.before[2] + g.after[2];
    plane_ = row_ * (g.in[1] + g.before[1] + g.after[1]);
    volume_ = plane_ * (g.in[0] + g.before[0] + g.after[0]);
    float* padded = input_memory(g.images * g.channels * volume_);
    run.parallel(g.images * g.channels, [&](int64_t channel) { fill(g, x + channel * g.plane(), padded + channel * volume_); });
    data_ = padded;
  }
  const float* group(const Geometry& g, int64_t image, int64_t group) const {
    return data_ + (image * g.channels + group * g.group_channels()) * volume_;
  }
  // How far what each tap of a group reads is from what tap 0 reads, for the same position.
  std::vector<int64_t> taps(const Geometry& g) const {
    std::vector<int64_t> offsets;
    for (int64_t channel = 0; channel < g.group_channels(); ++channel)
      for (int64_t z = 0; z < g.kernel[0]; ++z)
        for (int64_t y = 0; y < g.kernel[1]; ++y)
          for (int64_t x = 0; x < g.kernel[2]; ++x)
            offsets.push_back(channel * volume_ + z * g.dilation[0] * plane_ + y * g.dilation[1] * row_ + x * g.dilation[2]);
    return offsets;
  }
  // The same for all positions, and tap 0.
  std::vector<int64_t> positions(const Geometry& g) const {
    std::vector<int64_t> offsets;
    for (int64_t z = 0; z < g.out[0]; ++z)
      for (int64_t y = 0; y < g.out[1]; ++y)
        for (int64_t x = 0; x < g.out[2]; ++x) offsets.push_back(z * g.stride[0] * plane_ + y * g.stride[1] * row_ + x * g.stride[2]);
    return offsets;
  }

 private:
  void fill(const Geometry& g, const float* from, float* to) const {
    std::fill(to, to + volume_, 0.0f);
    for (int64_t z = 0; z < g.in[0]; ++z)
      for (int64_t y = 0; y < g.in[1]; ++y)
        std::copy_n(from + (z * g.in[1] + y) * g.in[2], g.in[2], to + (z + g.before[0]) * plane_ + (y + g.before[1]) * row_ + g.before[2]);
  }
  const float* data_;
  int64_t row_, plane_, volume_;
};

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

// A convolution as a multiplication: rows of x are output positions, wherever their taps are in the input.
struct Multiplied {
  const Geometry& g;
  const Weight& weight;
  const Padded& padded;
  std::vector<int64_t> taps, positions;
  const float* bias;  // a value an output, or null
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
    const float *x[PART_ROWS], *from = padded.group(g, image, tile.batch);
    const int64_t many = part.last - part.first;
    for (int64_t i = 0; i < many; ++i) x[i] = from + positions[static_cast<size_t>(first + i)];
    const Product product = {x,
                             taps.data() + tile.first,
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

// Groups of fewer outputs than this go the direct way: a panel would be mostly other groups' lanes.
constexpr int64_t DIRECT_BELOW = 16;

class Conv : public WeightOperator {
 public:
  Conv(const Attributes& attributes, const Options& options)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), options), conv_(attributes), activation_(attributes) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const Tensor x = run.input(0).value();
    const Geometry g(conv_, x.shape, held->member());
    const Floats activations(x);
    const auto bias = optional_floats(run, 2, "bias", {g.outputs});
    const auto residual = optional_floats(run, 3, "residual", g.shape());
    Output y(run, g.shape(), x.type);
    const bool direct = g.group > 1 && (held->member().batch == 1 || g.group_outputs() < DIRECT_BELOW);
    const float* biases = bias ? bias->data() : nullptr;
    const Ends ends = {residual, activation_, held->kernels()};
    const int64_t k = held->member().k;
    if (direct) {
      const Phases phases(g, held->kernels());
      const int64_t lanes = part_rows(std::min<int64_t>(LANES_MAX, held->member().rows), g.positions() * k * DIRECT_COST);
      const Direct layer = {g, *held, phases, activations.data(), biases, ends, y.data(), lanes};
      share_tiles(run, *held, layer.work());
    } else {
      const Padded padded(run, g, activations.data());
      const int64_t rows = part_rows(g.positions(), std::min(PANEL_ROWS, g.group_outputs()) * k);
      const Multiplied layer = {g, *held, padded, padded.taps(g), padded.positions(g), biases, ends, y.data(), rows};
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
  ConvAttributes conv_;
  Activation activation_;
};

}  // namespace

std::unique_ptr<Operator> make_conv(const Attributes& attributes, const Options& options) {
  return std::make_unique<Conv>(attributes, options);
}

}  // namespace onnx_compress
