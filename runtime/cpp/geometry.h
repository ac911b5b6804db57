// The geometry of a convolution, one to three spatial axes seen as three.
#pragma once

#include "operator.h"

namespace onnx_compress {

// Attributes as written in the node; axes beyond those given have the defaults of Conv.
struct ConvAttributes {
  explicit ConvAttributes(const Attributes& attributes);
  std::string auto_pad;
  int64_t group;
  std::vector<int64_t> dilations, pads, strides;
};

struct Geometry {
  size_t axes = 0;  // spatial axes of the model
  int64_t images = 0, channels = 0, outputs = 0, group = 1;
  int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, dilation[3] = {1, 1, 1},
          before[3] = {0, 0, 0}, after[3] = {0, 0, 0};

  // Throws where the shapes, the weight or the attributes do not fit each other.
  Geometry(const ConvAttributes& attributes, const Shape& x, const Member& member);
  int64_t plane() const { return in[0] * in[1] * in[2]; }
  int64_t positions() const { return out[0] * out[1] * out[2]; }
  int64_t padding() const { return before[0] + before[1] + before[2] + after[0] + after[1] + after[2]; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t group_channels() const { return channels / group; }
  int64_t group_outputs() const { return outputs / group; }
  Shape shape() const;
};

// Position of tap t in the kernel, by axis.
struct Tap {
  int64_t at[3];
  Tap(const Geometry& geometry, int64_t tap)
      : at{tap / (geometry.kernel[1] * geometry.kernel[2]), tap / geometry.kernel[2] % geometry.kernel[1], tap % geometry.kernel[2]} {}
};

}  // namespace onnx_compress
