// One pass over memory. Elements go in blocks of 64, whose gates fill a word.
#include "sign_ste.h"

#include "../common/bits.h"
#include "../common/vmath.h"
#include "../common/workspace.h"
#include "../random/runs.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kBlock = 64, kBlocksPerTask = 256;

// f(block) for all blocks of 64 of n elements, shared among threads.
template <class F>
void for_blocks(int64_t n, const Parallel& parallel, F&& f) {
  const int64_t blocks = (n + kBlock - 1) / kBlock, wanted = blocks / kBlocksPerTask + 1;
  const int64_t tasks = wanted < parallel.threads ? wanted : parallel.threads;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(blocks, 1, task, tasks);
    for (int64_t b = mine.begin; b < mine.end; ++b) f(b);
  });
}

template <class V>
VDK_INLINE V signs_of(V x) {
  const V one = V{} + 1;
  return x >= V{} ? one : x < V{} ? -one : x;
}

template <class T>
struct Levels {
  int n;
  T edge[3];

  explicit Levels(const SteRule& rule) : n(rule.levels), edge{} {
    for (int i = 0; i < n; ++i) edge[i] = T(double(2 * i + 1) / (2 * n));
  }
  VDK_INLINE Vec<T> operator()(Vec<T> x) const {
    using V = Vec<T>;
    const V one = V{} + 1;
    V reached{};
    for (int i = 0; i < n; ++i) reached += x >= filled<V>(edge[i]) ? one : V{};
    return x == x ? reached / T(n) : x;
  }
};

// +1 with probability (x + 1) / 2; `u` is uniform in [0, 1).
template <class T>
VDK_INLINE T random_sign(T x, uint32_t word) {
  const T u = T(word >> 8) * T(0x1p-24);
  return u < (x + 1) / 2 ? T(1) : x == x ? T(-1) : x;
}

// The gates of block b.
template <class E>
VDK_INLINE uint64_t gates_of(const SignArgs<E>& a, int64_t b) {
  using T = typename ComputeOf<E>::T;
  const Vec<T> low = broadcast(T(a.rule.low)), high = broadcast(T(a.rule.high));
  const int64_t first = b * kBlock, n = a.n - first < kBlock ? a.n - first : kBlock;
  uint64_t gates = 0;
  for (int64_t j = 0; j < n; j += kLanes<T>) {
    const Vec<T> x = load_as_compute(a.x + first + j, n - j);
    gates |= lane_bits((x >= low) & (x <= high)) << j;
  }
  return n < kBlock ? gates & ((uint64_t(1) << n) - 1) : gates;
}

template <class E, class F>
void each(const SignArgs<E>& a, const Parallel& parallel, const F& value) {
  using T = typename ComputeOf<E>::T;
  for_blocks(a.n, parallel, [&](int64_t b) {
    const int64_t end = (b + 1) * kBlock < a.n ? (b + 1) * kBlock : a.n;
    for (int64_t i = b * kBlock; i < end; i += kLanes<T>)
      store_rounded(a.y + i, value(load_as_compute(a.x + i, end - i)), end - i);
    if (a.gate) a.gate[b] = gates_of(a, b);
  });
}

template <class E>
void at_random(const SignArgs<E>& a, const Parallel& parallel) {
  using T = typename ComputeOf<E>::T;
  const NoiseGrid grid(a.seed, a.cols);
  for_runs(grid, a.rows, a.cols, true, parallel, [&](uint64_t group, int64_t first, int64_t n) {
    uint32_t words[kRunLength];
    alignas(64) T drawn[kRunLength];
    draw(grid, group, words);
    for (int64_t j = 0; j < n; j += kLanes<T>) store(drawn + j, load_as_compute(a.x + first + j, n - j));
    for (int64_t j = 0; j < n; ++j) drawn[j] = random_sign(drawn[j], words[j]);
    for (int64_t j = 0; j < n; j += kLanes<T>) store_rounded(a.y + first + j, load(drawn + j), n - j);
  });
  if (a.gate) for_blocks(a.n, parallel, [&](int64_t b) { a.gate[b] = gates_of(a, b); });
}

template <class E>
void forward(const SignArgs<E>& a, const Parallel& parallel) {
  using T = typename ComputeOf<E>::T;
  if (a.n == 0) return;
  advise_huge_pages(a.y, size_t(a.n) * sizeof(E));
  if (a.rule.stochastic) return at_random(a, parallel);
  if (a.rule.levels) return each(a, parallel, Levels<T>(a.rule));
  each(a, parallel, [](Vec<T> x) __attribute__((always_inline)) { return signs_of(x); });
}

// beta (1 - h tanh h) / cosh^2 h, h = beta |x| / 2, with e = exp(-2 h): nothing overflows.
template <class T>
VDK_INLINE Vec<T> swish_slope(Vec<T> x, T beta) {
  using V = Vec<T>;
  const V magnitude = x < V{} ? -x : x;
  const V h = minimum(V{} + T(40), magnitude * (beta / 2));
  const V e = vexp(h * T(-2)), q = (V{} + 1) / (e + 1);
  return (V{} + 1 - h * ((V{} + 1 - e) * q)) * (e * q * q) * (4 * beta);
}

template <class T>
VDK_INLINE Vec<T> polynomial_slope(Vec<T> x) {
  using V = Vec<T>;
  const V magnitude = x < V{} ? -x : x;
  return maximum(V{}, V{} + 2 - magnitude * T(2));
}

template <class E>
void backward(const SignBackwardArgs<E>& a, const Parallel& parallel) {
  using T = typename ComputeOf<E>::T;
  using V = Vec<T>;
  if (a.n == 0) return;
  advise_huge_pages(a.dx, size_t(a.n) * sizeof(E));
  const bool box = a.rule.slope == Slope::kBox, swish = a.rule.slope == Slope::kSwish;
  const T factor = T(a.rule.strength);
  for_blocks(a.n, parallel, [&](int64_t b) {
    const int64_t first = b * kBlock, end = first + kBlock < a.n ? first + kBlock : a.n;
    for (int64_t i = first; i < end; i += kLanes<T>) {
      const V dy = load_as_compute(a.dy + i, end - i);
      V dx;
      if (box) {
        dx = where_bits<T>(a.gate[b] >> (i - first), dy * factor);
      } else {
        const V x = load_as_compute(a.x + i, end - i);
        dx = dy * (swish ? swish_slope(x, factor) : polynomial_slope<T>(x));
      }
      store_rounded(a.dx + i, dx, end - i);
    }
  });
}

}  // namespace

void sign_ste(const SignArgs<float>& args, const Parallel& p) { forward(args, p); }
void sign_ste(const SignArgs<double>& args, const Parallel& p) { forward(args, p); }
void sign_ste(const SignArgs<Float16>& args, const Parallel& p) { forward(args, p); }
void sign_ste(const SignArgs<BFloat16>& args, const Parallel& p) { forward(args, p); }

void sign_ste_backward(const SignBackwardArgs<float>& args, const Parallel& p) { backward(args, p); }
void sign_ste_backward(const SignBackwardArgs<double>& args, const Parallel& p) { backward(args, p); }
void sign_ste_backward(const SignBackwardArgs<Float16>& args, const Parallel& p) { backward(args, p); }
void sign_ste_backward(const SignBackwardArgs<BFloat16>& args, const Parallel& p) { backward(args, p); }

}  // namespace VDK_ISA
}  // namespace vdk
