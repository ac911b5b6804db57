// CompressedConv: act(conv(X, w) + bias + residual) (FORMAT.md, section 8).
#include <algorithm>
#include <cstring>

#include "direct_conv.h"

namespace onnx_compress {
namespace {

constexpr int64_t PACK_FLOATS = 32768;  // 128 KB of packed input beside the tile
constexpr int64_t BLOCK_MAX = 96;       // positions multiplied at once: a whole number of micro-kernel rows

// One row of im2col, into[0 .. last - first): what tap `k` of the group reads for the output positions first..last.
void pack_row(const Geometry& g, const float* x, int64_t k, int64_t first, int64_t last, float* into) {
  const Tap tap(g, k % g.taps());
  const float* plane = x + k / g.taps() * g.plane();
  const int64_t width = g.out[2];
  for (int64_t position = first; position < last;) {
    const int64_t row = position / width, from = position % width, many = std::min(width - from, last - position);
    const int64_t z = row / g.out[1] * g.stride[0] + tap.at[0] * g.dilation[0] - g.before[0];
    const int64_t y = row % g.out[1] * g.stride[1] + tap.at[1] * g.dilation[1] - g.before[1];
    const int64_t shift = tap.at[2] * g.dilation[2] - g.before[2];
    if (z < 0 || z >= g.in[0] || y < 0 || y >= g.in[1]) {
      std::memset(into, 0, static_cast<size_t>(many) * sizeof(float));
    } else {
      const float* source = plane + (z * g.in[1] + y) * g.in[2];
      // Columns c with 0 <= c * stride + shift < in.
      const int64_t low = std::clamp<int64_t>(shift >= 0 ? 0 : (-shift + g.stride[2] - 1) / g.stride[2], from, from + many);
      const int64_t high = std::clamp<int64_t>((g.in[2] - shift + g.stride[2] - 1) / g.stride[2], low, from + many);
      for (int64_t c = from; c < low; ++c) into[c - from] = 0.0f;
      if (g.stride[2] == 1)
        std::memcpy(into + low - from, source + low + shift, static_cast<size_t>(high - low) * sizeof(float));
      else
        for (int64_t c = low; c < high; ++c) into[c - from] = source[c * g.stride[2] + shift];
      for (int64_t c = high; c < from + many; ++c) into[c - from] = 0.0f;
    }
    into += many, position += many;
  }
}

// y[lane, position] (+)= block[position, lane]
void store_transposed(const float* block, int64_t many, int64_t lanes, float* y, int64_t y_row, bool accumulate) {
  for (int64_t lane = 0; lane < lanes; ++lane) {
    float* to = y + lane * y_row;
    const float* from = block + lane;
    for (int64_t i = 0; i < many; ++i) to[i] = from[i * PANEL_ROWS] + (accumulate ? to[i] : 0.0f);
  }
}

// The products of a tile for the positions first..last of one image; x and y are those of the tile's group.
void convolve_tile(const Geometry& g, const Tile& tile, const float* x, float* y, int64_t first, int64_t last) {
  alignas(64) float block[BLOCK_MAX * PANEL_ROWS];
  const int64_t steps = tile.last - tile.first;
  const int64_t room = std::max<int64_t>(12, std::min(BLOCK_MAX, PACK_FLOATS / steps) / 12 * 12);
  float* packed = pack_memory(room * steps);
  for (int64_t position = first; position < last; position += room) {
    const int64_t many = std::min(room, last - position);
    for (int64_t k = 0; k < steps; ++k) pack_row(g, x, tile.first + k, position, position + many, packed + k * room);
    for (int64_t lane = 0; lane < tile.lanes; lane += PANEL_ROWS) {
      const Product product = {packed, 1, room, many, steps, tile.values + lane, tile.stride, block, PANEL_ROWS, 0};
      kernels().multiply(&product);
      const int64_t lanes = std::min(PANEL_ROWS, tile.lanes - lane);
      store_transposed(block, many, lanes, y + lane * g.positions() + position, g.positions(), tile.first > 0);
    }
  }
}

struct Ends {
  const std::optional<Floats>&bias, &residual;
  bool relu;
};

void finish_rows(const Geometry& g, float* y, int64_t output, int64_t lanes, int64_t first, int64_t last, const Ends& ends) {
  if (!ends.bias && !ends.residual && !ends.relu) return;
  for (int64_t image = 0; image < g.images; ++image)
    for (int64_t lane = output; lane < output + lanes; ++lane) {
      const int64_t offset = (image * g.outputs + lane) * g.positions();
      const float bias = ends.bias ? ends.bias->data()[lane] : 0.0f;
      for (int64_t i = offset + first; i < offset + last; ++i) {
        float value = y[i] + bias;
        if (ends.residual) value += ends.residual->data()[i];
        y[i] = ends.relu ? std::max(value, 0.0f) : value;
      }
    }
}

// Groups of fewer outputs than this go the direct way: a panel would be mostly other groups' lanes.
constexpr int64_t DIRECT_BELOW = 16;
// Positions are split between threads only where multiplying costs far more than the decoding that each thread repeats.
constexpr int64_t SPLIT_POSITIONS = 768;

class Conv : public WeightOperator {
 public:
  Conv(const Attributes& attributes, bool checksums)
      : WeightOperator(attributes, 1, static_cast<int>(attributes.integer("to", 0)), checksums),
        conv_(attributes),
        relu_(is_relu(attributes)) {
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
    run.parallel(held->pieces() * splits, [&](int64_t index) {
      const int64_t split = index % splits, first = g.positions() * split / splits, last = g.positions() * (split + 1) / splits;
      TileSource source(*held, index / splits, tile_memory());
      for (Tile tile; source.next(tile);) {
        direct ? convolve_directly(g, tile, activations.data(), y.data()) : convolve(g, tile, activations.data(), y.data(), first, last);
        const int64_t output = tile.batch * held->member().rows + tile.row;
        if (tile.last == held->member().k) finish_rows(g, y.data(), output, tile.lanes, first, last, {bias, residual, relu_});
      }
    });
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
  static void convolve(const Geometry& g, const Tile& tile, const float* x, float* y, int64_t first, int64_t last) {
    for (int64_t image = 0; image < g.images; ++image) {
      const float* from = x + (image * g.channels + tile.batch * g.group_channels()) * g.plane();
      float* to = y + (image * g.outputs + tile.batch * g.group_outputs() + tile.row) * g.positions();
      convolve_tile(g, tile, from, to, first, last);
    }
  }

  ConvAttributes conv_;
  bool relu_;
};

}  // namespace

std::unique_ptr<Operator> make_conv(const Attributes& attributes, bool checksums) { return std::make_unique<Conv>(attributes, checksums); }

}  // namespace onnx_compress
