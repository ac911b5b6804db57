// For the thread sanitizer: `threads CORPUS`. Eight threads share each operator and its weight, as concurrent runs of a session do, and
// every run has a parallel loop of its own; all outputs must be equal. With every set of kernels, weights in tiles and dense.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>

#include "dispatch.h"
#include "operator_cases.h"

namespace onnx_compress {
namespace {

constexpr int RUNS = 8, LOOP_THREADS = 2;

// Whether all concurrent runs of an operator give the same; an operator that refuses the weight has nothing to give.
bool agrees(const Case& use, const OrtValue& payload, const Options& options, size_t& computed) {
  OrtKernelInfo node = use.node;
  node.constants = use.inputs(payload);
  std::unique_ptr<Operator> shared;
  try {
    shared = use.make(Attributes(fake_api(), &node), options);
  } catch (const Error&) {
    return true;
  }
  const OrtValue made = fake_tensor(TYPE_FLOAT, {});
  std::vector<OrtKernelContext> runs(RUNS, OrtKernelContext{node.constants, {made, made, made}, LOOP_THREADS});
  std::vector<char> done(RUNS, 0);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < RUNS; ++i)
    threads.emplace_back([&, i] {
      try {
        shared->compute(Run(fake_api(), &runs[i]));
        done[i] = 1;
      } catch (const Error&) {
      }
    });
  for (std::thread& thread : threads) thread.join();
  computed += static_cast<size_t>(done[0]);
  for (size_t i = 1; i < RUNS; ++i)
    if (done[i] != done[0] || runs[i].outputs[0].bytes != runs[0].outputs[0].bytes) return false;
  return true;
}

// How much larger activations must be for the threads of one run to share its tiles.
int64_t shared_times(const Member& member) { return std::clamp<int64_t>((int64_t{1} << 20) / std::max<int64_t>(1, member.size()), 1, 400); }

// How many uses were computed; -1 where runs differ.
long try_payload(const uint8_t* data, size_t size) {
  const OrtValue payload = fake_bytes(data, size);
  size_t computed = 0;
  const Payload parsed = parse(data, size);
  const Member& member = parsed.members.front();
  for (const Kernels* kernels : machine_kernels())
    for (const bool dense : {false, true})
      for (const Case& use : cases_for(member))
        if (!agrees(use, payload, {true, kernels, dense}, computed)) return -1;
  for (const Case& use : cases_for(member, shared_times(member)))
    if (!agrees(use, payload, {true, machine_kernels().front()}, computed)) return -1;
  return static_cast<long>(computed);
}

}  // namespace
}  // namespace onnx_compress

int main(int count, char** arguments) {
  if (count != 2) return std::fputs("usage: threads CORPUS\n", stderr), 2;
  std::ifstream file(arguments[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  long payloads = 0, computed = 0;
  for (size_t at = 0; at + 4 <= bytes.size(); ++payloads) {
    uint32_t size = 0;
    std::memcpy(&size, bytes.data() + at, 4);
    const long here = onnx_compress::try_payload(reinterpret_cast<const uint8_t*>(bytes.data()) + at + 4, size);
    if (here < 0) return std::printf("payload %ld: concurrent runs differ\n", payloads), 1;
    computed += here, at += 4 + size;
  }
  std::printf("threads: %ld payloads, %ld operators, concurrent runs agree\n", payloads, computed);
  return computed == 0;
}
