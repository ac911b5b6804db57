#include "geometry.h"

#include <algorithm>

namespace onnx_compress {

ConvAttributes::ConvAttributes(const Attributes& attributes)
    : auto_pad(attributes.string("auto_pad")),
      group(attributes.integer("group", 1)),
      dilations(attributes.integers("dilations")),
      pads(attributes.integers("pads")),
      strides(attributes.integers("strides")) {
  if (auto_pad.empty()) auto_pad = "NOTSET";
  if (auto_pad != "NOTSET" && auto_pad != "SAME_UPPER" && auto_pad != "SAME_LOWER" && auto_pad != "VALID")
    fail(Fault::argument, "auto_pad '", auto_pad, "' is unknown");
}

namespace {

int64_t given(const std::vector<int64_t>& values, size_t count, size_t index, int64_t otherwise, const char* what) {
  if (values.empty()) return otherwise;
  if (values.size() != count) fail(Fault::argument, "attribute ", what, " has ", values.size(), " values, expected ", count);
  return values[index];
}

}  // namespace

Geometry::Geometry(const ConvAttributes& attributes, const Shape& x, const Member& member) : group(attributes.group) {
  const Shape& w = member.dims;
  if (w.size() < 3 || w.size() > 5 || x.size() != w.size())
    fail(Fault::argument, "X has shape ", text_of(x), " and the weight ", text_of(w), "; both need the same rank, 3 to 5");
  axes = w.size() - 2, images = x[0], channels = x[1], outputs = w[0];
  if (group < 1 || channels != w[1] * group || outputs % group)
    fail(Fault::argument, "X has ", channels, " channels and the weight dims ", text_of(w), ", which does not fit group ", group);
  if (member.batch * member.rows != outputs || (member.batch != 1 && member.batch != group))
    fail(Fault::argument, "a weight of dims ", text_of(w), " seen as ", member.batch, " batches of ", member.rows,
         " rows is not one that Conv multiplies with");
  for (size_t i = 0; i < axes; ++i) {
    const size_t axis = 3 - axes + i;
    in[axis] = x[2 + i], kernel[axis] = w[2 + i];
    stride[axis] = given(attributes.strides, axes, i, 1, "strides");
    dilation[axis] = given(attributes.dilations, axes, i, 1, "dilations");
    if (stride[axis] < 1 || dilation[axis] < 1) fail(Fault::argument, "strides and dilations must be at least 1");
    const int64_t extent = (kernel[axis] - 1) * dilation[axis] + 1;
    if (attributes.auto_pad == "NOTSET") {
      before[axis] = given(attributes.pads, 2 * axes, i, 0, "pads"), after[axis] = given(attributes.pads, 2 * axes, axes + i, 0, "pads");
    } else if (attributes.auto_pad != "VALID") {
      // "SAME: output = ceil(input / stride)"; the odd one goes behind with SAME_UPPER, before with SAME_LOWER.
      const int64_t wanted = (in[axis] + stride[axis] - 1) / stride[axis];
      const int64_t total = std::max<int64_t>(0, (wanted - 1) * stride[axis] + extent - in[axis]);
      before[axis] = attributes.auto_pad == "SAME_LOWER" ? (total + 1) / 2 : total / 2;
      after[axis] = total - before[axis];
    }
    const int64_t room = in[axis] + before[axis] + after[axis] - extent;
    if (room < 0 || before[axis] < 0 || after[axis] < 0)
      fail(Fault::argument, "X of shape ", text_of(x), " with its padding is smaller than the kernel ", text_of(w));
    out[axis] = room / stride[axis] + 1;
  }
}

Shape Geometry::shape() const {
  Shape shape = {images, outputs};
  for (size_t axis = 3 - axes; axis < 3; ++axis) shape.push_back(out[axis]);
  return shape;
}

}  // namespace onnx_compress
