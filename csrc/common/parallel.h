// How kernels get their threads: a callback, so that they know nothing of torch.
#pragma once
#include <cstdint>

namespace vdk {

// Cycles, about, that make one more thread of a sparse product worth while. Threads that share a panel or an
// image do some of its work twice or start twice: `python -m bench.threads` had two of them take longer than
// one with up to 480,000 cycles of work.
constexpr int64_t kThreadCycles = 24000, kSharingCycles = 480000;

struct Parallel {
  int64_t threads;  // tasks worth making
  void (*run)(int64_t tasks, void (*task)(void* context, int64_t index), void* context);

  template <class F>
  void operator()(int64_t tasks, F&& f) const {
    if (tasks <= 0) return;
    if (tasks == 1) return f(int64_t{0});
    run(tasks, [](void* context, int64_t index) { (*static_cast<F*>(context))(index); }, &f);
  }
};

// Part `index` of `parts` of the range [0, n), in whole units.
struct Range {
  int64_t begin, end;
};
inline Range part_of(int64_t n, int64_t unit, int64_t index, int64_t parts) {
  const int64_t units = (n + unit - 1) / unit;
  const int64_t begin = units * index / parts * unit, end = units * (index + 1) / parts * unit;
  return {begin < n ? begin : n, end < n ? end : n};
}

}  // namespace vdk
