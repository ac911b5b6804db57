// CompressedConv: act(conv(X, w) + bias + residual) (FORMAT.md, section 8).
#include <algorithm>
#include <cstring>

#include "activation.h"
#include "direct_conv.h"

namespace onnx_compress {
namespace {

constexpr int64_t BLOCK = 96;  // positions multiplied at once: a whole number of micro-kernel rows

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
  // What tap k of a group reads is this far from what the group's tap 0 reads, for the same output position.
  int64_t tap(const Geometry& g, int64_t k) const {
    const Tap tap(g, k % g.taps());
    return k / g.taps() * volume_ + tap.at[0] * g.dilation[0] * plane_ + tap.at[1] * g.dilation[1] * row_ + tap.at[2] * g.dilation[2];
  }
  int64_t position(const Geometry& g, int64_t position) const {
    const int64_t row = position / g.out[2], z = row / g.out[1], y = row % g.out[1];
    return z * g.stride[0] * plane_ + y * g.stride[1] * row_ + position % g.out[2] * g.stride[2];
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
  const std::optional<Floats>&bias, &residual;
  const Activation& activation;
};

void finish_rows(const Geometry& g, float* y, int64_t image, int64_t output, int64_t lanes, int64_t first, int64_t last, const Ends& ends) {
  Ending ending = ends.activation.ending();
  for (int64_t lane = output; lane < output + lanes; ++lane) {
    const int64_t offset = (image * g.outputs + lane) * g.positions() + first;
    if (ends.bias) ending.bias = ends.bias->data()[lane];
    if (ends.residual) ending.residual = ends.residual->data() + offset;
    if (!ending.nothing()) kernels().end_row(y + offset, last - first, &ending);
  }
}

// Groups of fewer outputs than this go the direct way: a panel would be mostly other groups' lanes.
constexpr int64_t DIRECT_BELOW = 16;
// Positions are split between threads only where multiplying costs far more than the decoding that each thread repeats.
constexpr int64_t SPLIT_POSITIONS = 256;
constexpr int64_t STEPS = 256;

class Conv : public WeightOperator {
 public:
  Conv(const Attributes& attributes, bool checksums)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), checksums),
        conv_(attributes),
        activation_(attributes) {
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
    const int64_t splits = direct ? 1 : std::clamp<int64_t>(g.positions() / SPLIT_POSITIONS, 1, 4);
    const Ends ends = {bias, residual, activation_};
    if (direct) {
      run.parallel(held->pieces(), [&](int64_t piece) {
        TileSource source(*held, piece, tile_memory());
        for (Tile tile; source.next(tile);) {
          convolve_directly(g, tile, activations.data(), y.data());
          const int64_t output = tile.batch * held->member().rows + tile.row;
          for (int64_t image = 0; image < g.images && tile.last == held->member().k; ++image)
            finish_rows(g, y.data(), image, output, tile.lanes, 0, g.positions(), ends);
        }
      });
    } else {
      const Padded padded(run, g, activations.data());
      run.parallel(held->pieces() * splits, [&](int64_t index) {
        const int64_t split = index % splits;
        convolve(g, *held, index / splits, padded, {g.positions() * split / splits, g.positions() * (split + 1) / splits}, y.data(), ends);
      });
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
  struct Positions {
    int64_t first, last;
  };

  // One piece of the weight, for some of the positions of all images.
  static void convolve(const Geometry& g, const Weight& weight, int64_t piece, const Padded& padded, Positions range, float* y,
                       const Ends& ends) {
    const int64_t k = weight.member().k, count = range.last - range.first;
    std::vector<int64_t> taps(static_cast<size_t>(k)), positions(static_cast<size_t>(count));
    for (int64_t i = 0; i < k; ++i) taps[static_cast<size_t>(i)] = padded.tap(g, i);
    for (int64_t i = 0; i < count; ++i) positions[static_cast<size_t>(i)] = padded.position(g, range.first + i);
    TileSource source(weight, piece, tile_memory());
    for (Tile tile; source.next(tile);) {
      const bool whole = tile.first == 0 && tile.last == k;  // then sums need no memory between tiles
      const int64_t panels = (tile.lanes + PANEL_ROWS - 1) / PANEL_ROWS, kept = whole ? BLOCK : g.images * panels * count;
      float* sums = pack_memory(kept * PANEL_ROWS);
      for (int64_t image = 0; image < g.images; ++image)
        for (int64_t panel = 0; panel < panels; ++panel)
          for (int64_t first = 0; first < count; first += BLOCK) {
            const int64_t many = std::min(BLOCK, count - first);
            float* block = sums + (whole ? 0 : ((image * panels + panel) * count + first) * PANEL_ROWS);
            const float *x[BLOCK], *from = padded.group(g, image, tile.batch);
            for (int64_t i = 0; i < many; ++i) x[i] = from + positions[static_cast<size_t>(first + i)];
            const Product product = {x,
                                     taps.data() + tile.first,
                                     many,
                                     tile.last - tile.first,
                                     tile.lane(panel * PANEL_ROWS),
                                     block,
                                     PANEL_ROWS,
                                     tile.first > 0};
            kernels().multiply(&product);
            if (tile.last < k) continue;
            const int64_t lanes = std::min(PANEL_ROWS, tile.lanes - panel * PANEL_ROWS),
                          output = tile.batch * weight.member().rows + tile.row + panel * PANEL_ROWS;
            kernels().transpose(block, many, lanes, y + (image * g.outputs + output) * g.positions() + range.first + first, g.positions());
            finish_rows(g, y, image, output, lanes, range.first + first, range.first + first + many, ends);
          }
    }
  }

  ConvAttributes conv_;
  Activation activation_;
};

}  // namespace

std::unique_ptr<Operator> make_conv(const Attributes& attributes, bool checksums) { return std::make_unique<Conv>(attributes, checksums); }

}  // namespace onnx_compress
