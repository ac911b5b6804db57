// Harness: one decoder, ONNX_COMPRESS_FUZZ_SET, on payloads whose header's checksum has been made right and whose streams' checksums are
// not looked at. Where it is not the baseline, both must refuse the same payloads, and decode to the same bits until they do.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "dispatch.h"
#include "fuzz.h"
#include "restore.h"

namespace onnx_compress {
namespace {

// Mutated dims may announce more than is quick to decode.
constexpr int64_t MOST_VALUES = int64_t{1} << 18;

struct Outcome {
  int fault = 0;
  std::vector<float> values;  // the first of the payload's members that fails is the last
};

Outcome outcome(const std::vector<uint8_t>& bytes, const Kernels& kernels) {
  Outcome found;
  const auto serial = [](int64_t count, const std::function<void(int64_t)>& work) {
    for (int64_t i = 0; i < count; ++i) work(i);
  };
  try {
    const size_t members = parse(bytes.data(), bytes.size()).members.size();
    for (size_t number = 0; number < members; ++number) {
      const Weight weight(bytes.data(), bytes.size(), static_cast<int64_t>(number), {false, &kernels}, 0);
      if (weight.member().size() > MOST_VALUES) continue;
      const size_t before = found.values.size();
      found.values.resize(before + static_cast<size_t>(weight.member().size()));
      restore(weight, FLOAT, found.values.data() + before, serial);
    }
  } catch (const Error& error) {
    found.fault = error.number();
  }
  return found;
}

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

void compare(const Outcome& found, const Outcome& expected) {
  bool equal = found.fault == expected.fault && found.values.size() == expected.values.size();
  for (size_t i = 0; equal && i < found.values.size(); ++i) equal = same(found.values[i], expected.values[i]);
  if (!equal) std::abort();
}

}  // namespace

bool try_bytes(const uint8_t* data, size_t size) {
  static const Kernels &tested = kernels_named(ONNX_COMPRESS_FUZZ_SET), &baseline = kernels_named("baseline");
  const std::vector<uint8_t> bytes = repaired(data, size);
  const Outcome found = outcome(bytes, tested);
  if (&tested != &baseline) compare(found, outcome(bytes, baseline));
  return found.fault == 0;
}

}  // namespace onnx_compress
