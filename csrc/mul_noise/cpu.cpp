// x is read once and the result written once; the noise of about a thousand elements at a time is drawn into
// L1. The backward pass of learned noise adds up its gradients in the same pass. Work is divided by x's shape
// alone, and partial sums are added in a fixed order, so no result depends on the number of threads.
#include "mul_noise.h"

#include "../common/vmath.h"
#include "../common/workspace.h"
#include "stream.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kChunk = 1 << 14;  // elements of a task

VDK_INLINE int64_t parts(int64_t n, int64_t unit) { return (n + unit - 1) / unit; }
VDK_INLINE int64_t less(int64_t a, int64_t b) { return a < b ? a : b; }
VDK_INLINE int64_t more(int64_t a, int64_t b) { return a > b ? a : b; }

// Tasks [0, tasks) over the threads, each with a noise stream of its own.
template <class T, class F>
void for_tasks(const NoiseLayout& layout, const Recipe<T>& recipe, uint64_t seed, int64_t tasks,
               const Parallel& parallel, const F& f) {
  const int64_t threads = less(tasks, parallel.threads);
  parallel(threads, [&](int64_t thread) {
    const size_t bytes = size_t(NoiseStream<T>::room(layout)) * sizeof(T);
    NoiseStream<T> noise(layout, recipe, seed, static_cast<T*>(scratch(Scratch::kTask, bytes)));
    const Range mine = part_of(tasks, 1, thread, threads);
    for (int64_t task = mine.begin; task < mine.end; ++task) {
      noise.restart();
      f(task, noise);
    }
  });
}

// Whole tiles of noise: a task that began within one would draw it again.
int64_t chunk_of(const NoiseLayout& layout) {
  const int64_t line = layout.channels ? layout.channels * layout.cols : 1;
  return parts(kChunk, line) * line;
}

template <class E>
void multiply(const MulNoiseArgs<E>& a, const Parallel& parallel) {
  using T = typename ComputeOf<E>::T;
  const int64_t numel = a.layout.numel(), chunk = chunk_of(a.layout);
  if (numel == 0) return;
  advise_huge_pages(a.y, size_t(numel) * sizeof(E));
  for_tasks(a.layout, Recipe<T>::fixed(a.noise, a.strength), a.seed, parts(numel, chunk), parallel,
            [&](int64_t task, NoiseStream<T>& noise) {
              const int64_t end = less((task + 1) * chunk, numel);
              for (int64_t i = task * chunk, n; i < end; i += n) {
                const T* const xi = noise.at(i, end, n);
                for (int64_t j = 0; j < n; j += kLanes<T>)
                  store_rounded(a.y + i + j, load_as_compute(a.x + i + j, n - j) * load_first(xi + j, n - j),
                                n - j);
              }
            });
}

// How [outer, channels, inner] is cut into tasks: a range of outer times some channels, or a part of one.
struct Partition {
  int64_t channels, pieces;  // a piece's channels
  int64_t inner, splits;     // a piece's share of inner: whole unless there are several splits
  int64_t outer, parts;      // a part's range of outer
};

Partition partition(const ChannelRuns& r, const NoiseLayout& layout) {
  const int64_t chunk = chunk_of(layout);
  Partition p{};
  p.inner = less(r.inner, chunk);
  p.splits = parts(r.inner, p.inner);
  p.channels = p.splits > 1 ? 1 : less(r.channels, more(chunk / r.inner, 1));
  p.pieces = parts(r.channels, p.channels);
  // Partial sums of every part are kept: no more than one for 64 elements.
  p.outer = more(parts(kChunk, p.channels * p.inner), more(parts(r.outer, 256), parts(64, r.inner)));
  if (layout.channels) p.outer = parts(p.outer, layout.cols) * layout.cols;
  p.parts = parts(r.outer, p.outer);
  return p;
}

// Sums over the elements of each channel: of dy (x + bias) e, and of dx.
template <class T>
struct Sums {
  T *alpha, *bias;
};

template <class E, class T, bool kBackward>
struct Learned {
  const LearnedNoiseArgs<E, T>& a;
  const T* std;   // [channels]
  const T* bias;  // [channels]

  // Lanes at i: x + bias, e and std give the result, and in the backward pass two terms of the sums.
  VDK_INLINE void lanes(int64_t i, int64_t n, Vec<T> e, Vec<T> s, Vec<T> b, Vec<T>& alpha,
                        Vec<T>& sum) const {
    const Vec<T> z = load_as_compute(a.x + i, n) + b, xi = s * e + T(1);
    if constexpr (kBackward) {
      const Vec<T> dy = load_as_compute(a.dy + i, n), dx = dy * xi;
      store_rounded(a.out + i, dx, n);
      alpha = alpha + dy * z * e;  // lanes beyond n are zero: dy is, and the noise is finite
      sum = sum + dx;
    } else {
      store_rounded(a.out + i, z * xi, n);
    }
  }

  // n elements from i on, of the channels from c on.
  VDK_INLINE void across(int64_t i, int64_t n, int64_t c, const T* e, Sums<T> sums) const {
    for (int64_t j = 0; j < n; j += kLanes<T>) {
      const int64_t left = n - j;
      Vec<T> alpha{}, sum{};
      if constexpr (kBackward) {
        alpha = load_first(sums.alpha + c + j, left);
        sum = load_first(sums.bias + c + j, left);
      }
      lanes(i + j, left, load_first(e + j, left), load_first(std + c + j, left),
            load_first(bias + c + j, left), alpha, sum);
      if constexpr (kBackward) {
        store_first(sums.alpha + c + j, alpha, left);
        store_first(sums.bias + c + j, sum, left);
      }
    }
  }

  // n elements from i on, of channel c alone; its sums are at `sums`.
  VDK_INLINE void along(int64_t i, int64_t n, int64_t c, const T* e, Sums<T> sums) const {
    const Vec<T> s = broadcast(std[c]), b = broadcast(bias[c]);
    Vec<T> alpha{}, sum{};
    for (int64_t j = 0; j < n; j += kLanes<T>)
      lanes(i + j, n - j, load_first(e + j, n - j), s, b, alpha, sum);
    if constexpr (kBackward) {
      *sums.alpha += sum_lanes<T>(alpha);
      *sums.bias += sum_lanes<T>(sum);
    }
  }

  // Elements [i, end) in memory order, the first of which is number `k` of its channel `c`.
  VDK_INLINE void range(int64_t i, int64_t end, int64_t c, int64_t k, NoiseStream<T>& noise,
                        Sums<T> of_channel) {
    const int64_t inner = a.runs.inner, channels = a.runs.channels;
    while (i < end) {
      int64_t n;
      const T* const e = noise.at(i, end, n);
      if (inner == 1) {
        n = less(n, channels - c);
        across(i, n, c, e, of_channel);
        c += n;
      } else {
        n = less(n, inner - k);
        along(i, n, c, e, {of_channel.alpha + c, of_channel.bias + c});
        k += n;
        if (k == inner) k = 0, ++c;
      }
      if (c == channels) c = 0;
      i += n;
    }
  }

  // `sums` of all tasks: [parts, channels, splits]
  void task(const Partition& p, int64_t index, NoiseStream<T>& noise, Sums<T> sums) {
    const ChannelRuns& r = a.runs;
    const int64_t split = index % p.splits, piece = index / p.splits % p.pieces;
    const int64_t part = index / p.splits / p.pieces;
    const int64_t c = piece * p.channels, k = split * p.inner;
    const int64_t length =
        p.splits > 1 ? less(p.inner, r.inner - k) : less(p.channels, r.channels - c) * r.inner;
    const int64_t first = part * p.outer, last = less(first + p.outer, r.outer);
    const int64_t period = r.channels * r.inner, begin = c * r.inner + k;
    Sums<T> own{nullptr, nullptr};
    if constexpr (kBackward) {
      const int64_t slot = part * r.channels * p.splits + c * p.splits + split,
                    slots = p.splits > 1 ? 1 : p.channels;
      // as if the sums of channel 0 were at the start, which is where `range` counts from
      own = {sums.alpha + slot - c, sums.bias + slot - c};
      for (int64_t s = 0; s < less(slots, r.channels - c); ++s) own.alpha[c + s] = own.bias[c + s] = 0;
    }
    if (length == period) {
      range(first * period, last * period, 0, 0, noise, own);
      return;
    }
    for (int64_t o = first; o < last; ++o)
      range(o * period + begin, o * period + begin + length, c, k, noise, own);
  }
};

template <class T>
double total(const T* sums, const Partition& p, int64_t channels, int64_t c) {
  double sum = 0;
  for (int64_t part = 0; part < p.parts; ++part)
    for (int64_t split = 0; split < p.splits; ++split) sum += sums[(part * channels + c) * p.splits + split];
  return sum;
}

template <class E, class T, bool kBackward>
void learned(const LearnedNoiseArgs<E, T>& a, const Parallel& parallel) {
  const int64_t numel = a.layout.numel(), channels = a.runs.channels;
  if (numel == 0) return;
  const Partition p = partition(a.runs, a.layout);
  const int64_t slots = kBackward ? p.parts * channels * p.splits : 0;
  T *std, *bias, *alpha_sums, *bias_sums;
  const auto carve = [&](Carver carver) {
    std = carver.take<T>(channels);
    bias = carver.take<T>(a.bias ? 0 : channels);
    alpha_sums = carver.take<T>(slots);
    bias_sums = carver.take<T>(slots);
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  advise_huge_pages(a.out, size_t(numel) * sizeof(E));
  parallel(less(parts(channels, kChunk), parallel.threads), [&](int64_t task) {
    const Range mine = part_of(channels, kLanes<T>, task, less(parts(channels, kChunk), parallel.threads));
    for (int64_t c = mine.begin; c < mine.end; c += kLanes<T>) {
      const int64_t n = mine.end - c;
      const Vec<T> la = a.one_alpha ? broadcast(*a.log_alpha) : load_first(a.log_alpha + c, n);
      store_first(std + c, vexp(la * T(0.5)), n);
      if (!a.bias) store_first(bias + c, Vec<T>{}, n);
    }
  });
  Learned<E, T, kBackward> pass{a, std, a.bias ? a.bias : bias};
  const Sums<T> sums{alpha_sums, bias_sums};
  for_tasks(a.layout, Recipe<T>::normal(), a.seed, p.parts * p.pieces * p.splits, parallel,
            [&](int64_t task, NoiseStream<T>& noise) { pass.task(p, task, noise, sums); });
  if constexpr (kBackward) {
    double of_one = 0;
    for (int64_t c = 0; c < channels; ++c) {
      const double d = 0.5 * double(std[c]) * total(alpha_sums, p, channels, c);
      if (a.one_alpha)
        of_one += d;
      else
        a.dlog_alpha[c] = T(d);
      if (a.dbias) a.dbias[c] = T(total(bias_sums, p, channels, c));
    }
    if (a.one_alpha) *a.dlog_alpha = T(of_one);
  }
}

template <class E, class T>
void either(const LearnedNoiseArgs<E, T>& a, const Parallel& parallel) {
  if (a.dy)
    learned<E, T, true>(a, parallel);
  else
    learned<E, T, false>(a, parallel);
}

}  // namespace

void mul_noise(const MulNoiseArgs<float>& args, const Parallel& parallel) { multiply(args, parallel); }
void mul_noise(const MulNoiseArgs<double>& args, const Parallel& parallel) { multiply(args, parallel); }
void mul_noise(const MulNoiseArgs<Float16>& args, const Parallel& parallel) { multiply(args, parallel); }
void mul_noise(const MulNoiseArgs<BFloat16>& args, const Parallel& parallel) { multiply(args, parallel); }

void mul_noise_learned(const LearnedNoiseArgs<float, float>& args, const Parallel& parallel) {
  either(args, parallel);
}
void mul_noise_learned(const LearnedNoiseArgs<double, double>& args, const Parallel& parallel) {
  either(args, parallel);
}
void mul_noise_learned(const LearnedNoiseArgs<Float16, float>& args, const Parallel& parallel) {
  either(args, parallel);
}
void mul_noise_learned(const LearnedNoiseArgs<BFloat16, float>& args, const Parallel& parallel) {
  either(args, parallel);
}

}  // namespace VDK_ISA
}  // namespace vdk
