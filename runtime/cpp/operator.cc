#include "operator.h"

#include <algorithm>

#include "number.h"

namespace onnx_compress {

HeldWeight::HeldWeight(WeightPlace place, const Options& options, std::function<void(const Weight&)> validate)
    : place_(place), options_(options), validate_(std::move(validate)) {
  if (place.to != 0 && place.to != FLOAT && place.to != FLOAT16 && place.to != BFLOAT16)
    fail(Fault::argument, "attribute to is ", place.to, ", legal is 0, 1 (float), 10 (float16) and 16 (bfloat16)");
}

void HeldWeight::keep_constant(const Attributes& attributes) {
  if (const auto payload = attributes.constant(place_.input)) constant_ = make(*payload, options_);
}

std::shared_ptr<const Weight> HeldWeight::make(const Tensor& payload, const Options& options) const {
  const auto bytes = static_cast<const uint8_t*>(payload.data);
  const auto made = std::make_shared<Weight>(bytes, static_cast<uint64_t>(payload.count()), place_.member, options, place_.to);
  validate_(*made);
  return made;
}

std::shared_ptr<const Weight> HeldWeight::of(const Run& run) const {
  if (constant_) return constant_;
  const auto payload = run.input(place_.input);
  if (!payload) fail(Fault::argument, "the payload is missing");
  Options options = options_;
  options.dense = false;  // of one run only: decoding all of it first would gain nothing
  return make(*payload, options);
}

WeightOperator::WeightOperator(const Attributes& attributes, size_t payload_input, int to, const Options& options)
    : held_({payload_input, attributes.integer("member", 0), to}, options, [this](const Weight& weight) { validate(weight); }) {}

void check_cast(int dtype, int type) {
  if (type == dtype || type == FLOAT || type == FLOAT16 || type == BFLOAT16) return;
  fail(Fault::argument, "a weight of dtype ", dtype, " cannot become an output of type ", type, ": give `like` the weight's own type");
}

Floats::Floats(const Tensor& tensor) : data_(static_cast<const float*>(tensor.data)) {
  if (tensor.type == TYPE_FLOAT) return;
  const uint16_t* half = static_cast<const uint16_t*>(tensor.data);
  copy_.resize(static_cast<size_t>(tensor.count()));
  std::transform(half, half + copy_.size(), copy_.begin(), from_half);
  data_ = copy_.data();
}

Output::Output(const Run& run, const Shape& shape, int type, size_t index) {
  void* memory = run.output(shape, index);
  data_ = static_cast<float*>(memory);
  if (type == TYPE_FLOAT || memory == nullptr) return;
  half_ = static_cast<uint16_t*>(memory);
  copy_.resize(static_cast<size_t>(count_of(shape)));
  data_ = copy_.data();
}

void Output::finish() {
  if (half_) std::transform(copy_.begin(), copy_.end(), half_, to_half);
}

namespace {

Floats floats_of(const Tensor& tensor, const char* what, const Shape& shape) {
  if (tensor.count() != count_of(shape)) fail(Fault::argument, what, " has shape ", text_of(tensor.shape), ", expected ", text_of(shape));
  return Floats(tensor);
}

}  // namespace

std::optional<Floats> optional_floats(const Run& run, size_t index, const char* what, const Shape& shape) {
  const auto tensor = run.input(index);
  return tensor ? floats_of(*tensor, what, shape) : std::optional<Floats>();
}

std::optional<Floats> OptionalFloats::of(const Run& run, const Shape& shape) const {
  return constant_ ? floats_of(*constant_, what_, shape) : optional_floats(run, index_, what_, shape);
}

float* tile_memory() {
  thread_local Buffer buffer;
  return buffer.floats(TILE_FLOATS);
}

float* pack_memory(int64_t floats) {
  thread_local Buffer buffer;
  return buffer.floats(floats);
}

float* input_memory(int64_t floats) {
  thread_local Buffer buffer;
  return buffer.floats(floats);
}

namespace {

template <class Element, class Convert>
void store_as(const float* values, int64_t step, int64_t count, void* to, int64_t offset, Convert convert) {
  Element* out = static_cast<Element*>(to) + offset;
  for (int64_t i = 0; i < count; ++i) out[i] = convert(values[i * step]);
}

}  // namespace

void store_elements(const float* values, int64_t step, int64_t count, int type, void* to, int64_t offset) {
  switch (type) {
    case FLOAT:
      return store_as<float>(values, step, count, to, offset, [](float value) { return value; });
    case FLOAT16:
      return store_as<uint16_t>(values, step, count, to, offset, to_half);
    case BFLOAT16:
      return store_as<uint16_t>(values, step, count, to, offset, to_bfloat);
    case UINT16:
      return store_as<uint16_t>(values, step, count, to, offset, [](float value) { return static_cast<uint16_t>(value); });
    case INT16:
      return store_as<int16_t>(values, step, count, to, offset, [](float value) { return static_cast<int16_t>(value); });
    case UINT8:
    case UINT4:
      return store_as<uint8_t>(values, step, count, to, offset, [](float value) { return static_cast<uint8_t>(value); });
    default:
      return store_as<int8_t>(values, step, count, to, offset, [](float value) { return static_cast<int8_t>(value); });
  }
}

}  // namespace onnx_compress
