// Decompress: the weight in its own shape, for consumers that have no kernel of ours (FORMAT.md, section 8).
#include "restore.h"

namespace onnx_compress {
namespace {

class Decompress : public WeightOperator {
 public:
  Decompress(const Attributes& attributes, const Options& options, int type)
      : WeightOperator(attributes, 0, static_cast<int>(attributes.integer("to", 0)), options), type_(type) {
    keep_constant(attributes);
  }

  void compute(const Run& run) const override {
    const auto held = weight(run);
    const auto parallel = [&run](int64_t count, const std::function<void(int64_t)>& work) { run.parallel(count, work); };
    void* out = run.output(held->member().dims);
    if (type_ != INT4 && type_ != UINT4) return restore(*held, type_, out, parallel);
    std::vector<uint8_t> values(static_cast<size_t>(held->member().size()));
    restore(*held, type_, values.data(), parallel);
    pack_halves(values.data(), held->member().size(), static_cast<uint8_t*>(out));
  }

 protected:
  void validate(const Weight& weight) const override { check_cast(weight.member().dtype, type_); }

 private:
  int type_;
};

}  // namespace

std::unique_ptr<Operator> make_decompress(const Attributes& attributes, const Options& options, int type) {
  return std::make_unique<Decompress>(attributes, options, type);
}

}  // namespace onnx_compress
