// From global to shared memory: tiles copied as they are, and weights turned into means and variances on the
// way.
#pragma once
#include "../cuda/bands.cuh"
#include "../kl/cuda.cuh"
#include "args.cuh"

namespace vdk {
namespace cuda {

// How a block's threads share a tile in chunks of 16 bytes: the same for every step, so a thread always meets
// its own chunks.
template <class Tile, int kThreads>
struct Chunks {
  static constexpr int kWidth = kVec<typename Tile::E>, kPerLine = Tile::kLength / kWidth;
  static constexpr int kLinesAtOnce = kThreads / kPerLine, kCount = Tile::kLines / kLinesAtOnce;
  static_assert(kThreads % kPerLine == 0 && Tile::kLines % kLinesAtOnce == 0);

  VDK_DEVICE static int line() { return int(threadIdx.x) / kPerLine; }
  VDK_DEVICE static int at() { return int(threadIdx.x) % kPerLine * kWidth; }
  VDK_DEVICE static int in_tile(int i) {
    const int at_line = line() + i * kLinesAtOnce;
    return Tile::kDeep ? Tile::at(at_line, at()) : Tile::at(at(), at_line);
  }
};

// Where a thread's chunks of a tile lie in a dense row-major matrix, and how much of the matrix is left from
// there on. Moves on by a step along the reduction.
template <class Tile, int kThreads>
struct Window {
  using C = Chunks<Tile, kThreads>;
  int64_t offset, length;  // in elements; length of a line
  int lines_left, elements_left;

  VDK_DEVICE Window(int64_t lines, int64_t length, int64_t line0, int64_t at0)
      : offset((line0 + C::line()) * length + at0 + C::at()),
        length(length),
        lines_left(int(lines - line0) - C::line()),
        elements_left(int(length - at0) - C::at()) {}

  VDK_DEVICE void advance() {
    constexpr int kStep = kBlockK<typename Tile::E>;
    offset += Tile::kDeep ? kStep : kStep * length;
    (Tile::kDeep ? elements_left : lines_left) -= kStep;
  }
  // whether element j of chunk i exists, `steps` ago
  VDK_DEVICE bool has(int i, int j, int steps = 0) const {
    const int back = steps * kBlockK<typename Tile::E>;
    return i * C::kLinesAtOnce < lines_left + (Tile::kDeep ? 0 : back) &&
           j < elements_left + (Tile::kDeep ? back : 0);
  }
  VDK_DEVICE int64_t chunk(int i) const { return offset + i * C::kLinesAtOnce * length; }
};

// Chunk i from global to shared memory, zeros where it does not exist. `whole`: lines keep the alignment of
// 16 bytes, so that a chunk exists as a whole or not at all; then nothing waits for the copy. E may be
// another type than the tile's, and then the chunk is `part` of several.
template <class E, class W>
VDK_DEVICE void copy_chunk(void* to, const void* matrix, bool whole, const W& window, int i, int part = 0) {
  const E* const source = static_cast<const E*>(matrix) + window.chunk(i) + part * kVec<E>;
  if (whole) {
    cp_async16(to, source, window.has(i, part * kVec<E>));
    return;
  }
  float v[kVec<E>];
  VDK_UNROLL
  for (int j = 0; j < kVec<E>; ++j) v[j] = window.has(i, j) ? widen(load_global<E>(source + j)) : 0.0f;
  Words4 words;
  narrow_all<E>(v, words.w);
  store_shared(to, words);
}

// Both operands of a pair, or the one there is, of a window's tile. What the kernel was given comes by
// reference: it is read where it is used and takes no registers.
template <bool kPair, class E, class V, class Tile, int kThreads>
VDK_DEVICE void copy_tile(E* to, V* to2, const void* const& from, const void* const& from2, const bool& whole,
                          const Window<Tile, kThreads>& window) {
  using C = Chunks<Tile, kThreads>;
  VDK_UNROLL
  for (int i = 0; i < C::kCount; ++i) {
    copy_chunk<E>(to + C::in_tile(i), from, whole, window, i);
    if constexpr (kPair) copy_chunk<V>(to2 + C::in_tile(i), from2, whole, window, i);
  }
}

// Where a product's operands come from, by windows over matrices: rows of an operand are lines where the
// reduction is contiguous.
template <class P>
struct Sources {
  using E = typename P::E;
  using A = Window<typename P::A, P::kThreads>;
  using B = Window<typename P::B, P::kThreads>;

  template <class W, class Tile>
  VDK_DEVICE static W window(int64_t rows, int64_t depth, int64_t row0, int64_t k0) {
    return Tile::kDeep ? W(rows, depth, row0, k0) : W(depth, rows, k0, row0);
  }
  VDK_DEVICE static A a(const ProductArgs& args, const TilePlace& tile, int64_t begin) {
    return window<A, typename P::A>(args.plan.m, args.plan.k, tile.m * P::kBlockM, begin * kBlockK<E>);
  }
  VDK_DEVICE static B b(const ProductArgs& args, const TilePlace& tile, int64_t begin) {
    return window<B, typename P::B>(args.plan.n, args.plan.k, tile.n * kBlockN, begin * kBlockK<E>);
  }
};

// e^x, of x at most 88. The fast one is off by up to 2^-20 at x = -20, nothing beside bfloat16 or tf32.
template <bool kExact>
VDK_DEVICE float exponential(float x) {
  if constexpr (kExact) return exp_f32(x);
  return approx_exp2(minimum(88.0f, x) * 1.44269504f);  // in this order NaN stays NaN
}

// Whether the products take the mean of a weight for 0; e is exp(log).
VDK_DEVICE bool is_clipped(const LrtWeights& w, float mu, float e) {
  return e >= w.exp_clip * (w.is_alpha ? 1.0f : mu * mu + float(kKlEps));
}

template <class E>
VDK_DEVICE float log_of(const LrtWeights& w, int64_t at) {
  return w.log_is_float ? load_global<float>(static_cast<const float*>(w.log) + at)
                        : widen(load_global<E>(static_cast<const E*>(w.log) + at));
}
// The log of weight (o, i), wherever `log` is broadcast from.
template <class E>
VDK_DEVICE float log_at(const LrtWeights& w, int64_t o, int64_t i) {
  return log_of<E>(w, (w.log_rows == 1 ? 0 : o * w.log_cols) + (w.log_cols == 1 ? 0 : i));
}

// KL of weight (mu, log) and its derivative by log_alpha.
VDK_DEVICE KlTerms<float> kl_of(const ProductArgs& args, float mu, float log) {
  const bool mean = !args.w.is_alpha;
  switch (args.prior) {
    case Prior::kLogUniform:
      return kl_of_weight<float, Prior::kLogUniform>(mu, log, mean, args.normal);
    case Prior::kKingma:
      return kl_of_weight<float, Prior::kKingma>(mu, log, mean, args.normal);
    case Prior::kExact:
      return kl_of_weight<float, Prior::kExact>(mu, log, mean, args.normal);
    case Prior::kArd:
      return kl_of_weight<float, Prior::kArd>(mu, log, mean, args.normal);
    case Prior::kNormal:
      return kl_of_weight<float, Prior::kNormal>(mu, log, mean, args.normal);
    case Prior::kNone:
      break;
  }
  return {0, 0};
}

VDK_DEVICE void round_all(Words4& floats) {
  VDK_UNROLL
  for (int j = 0; j < 4; ++j) floats.w[j] = to_tf32(as_float(floats.w[j]));
}

// Weights pass through a buffer in which every thread finds its own chunks, so no barrier is needed: `fetch`
// starts the copies of mu and log, `convert` turns what has landed into a tile of means and one of variances.
// Exponentials are so computed once a block, not once a warp and fragment.
template <class P>
struct WeightStage {
  using E = typename P::E;
  using V = typename P::V;
  using W = typename Sources<P>::B;
  using C = Chunks<typename P::B, P::kThreads>;
  static constexpr int kLogWords = kVec<E> / 4;  // of 16 bytes, for a chunk of logs in float
  static constexpr int kBytes = C::kCount * P::kThreads * (1 + kLogWords) * 16;

  Words4* buffer;  // of this step
  const typename P::Args& args;

  VDK_DEVICE Words4* mu_chunk(int i) const { return buffer + i * P::kThreads + threadIdx.x; }
  VDK_DEVICE Words4* log_chunk(int i, int word) const {
    return buffer + (C::kCount * (1 + word) + i) * P::kThreads + threadIdx.x;
  }
  VDK_DEVICE bool float_logs() const { return args.w.log_is_float || !args.whole_log; }

  VDK_DEVICE void fetch(const W& window) const {
    const LrtWeights& w = args.w;
    VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) {
      copy_chunk<E>(mu_chunk(i), w.mu, args.whole_b, window, i);
      if (!args.whole_log) {
        gather(window, i);
      } else if (w.log_is_float) {
        VDK_UNROLL
        for (int word = 0; word < kLogWords; ++word)
          copy_chunk<float>(log_chunk(i, word), w.log, true, window, i, word);
      } else {
        copy_chunk<E>(log_chunk(i, 0), w.log, true, window, i);
      }
    }
  }

  VDK_DEVICE void convert(E* means, V* variances) const {
    const LrtWeights& w = args.w;
    VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) {
      Words4 mu = load_shared<Words4>(mu_chunk(i)), variance;
      float e[kVec<E>];
      logs(i, e);
      VDK_UNROLL
      for (int j = 0; j < kVec<E>; ++j) e[j] = exponential<P::Math::kExactExp>(e[j]);
      if (args.plain_weights) {
        narrow_all<V>(e, variance.w);
      } else {
        float m[kVec<E>];
        widen_all<E>(mu.w, m);
        VDK_UNROLL
        for (int j = 0; j < kVec<E>; ++j) {
          const bool clipped = is_clipped(w, m[j], e[j]);
          if (w.is_alpha) e[j] *= m[j] * m[j];
          if (clipped) m[j] = 0;
        }
        narrow_all<E>(m, mu.w);
        narrow_all<V>(e, variance.w);
      }
      if constexpr (P::Math::kRoundMean) round_all(mu);
      if constexpr (P::Math::kRoundVariance) round_all(variance);
      store_shared(means + C::in_tile(i), mu);
      store_shared(variances + C::in_tile(i), variance);
    }
  }

  // The KL of this thread's chunks, of two steps before the window: read again, one weight at a time, since
  // its formula is long and would multiply the registers and instructions of the loop around it.
  VDK_DEVICE float kl(const W& window) const {
    float sum = 0;
    VDK_ROLLED
    for (int n = 0; n < C::kCount * kVec<E>; ++n) {
      const int i = n / kVec<E>, j = n % kVec<E>;
      if (!window.has(i, j, 2)) continue;
      const float mu = widen(reinterpret_cast<const E*>(mu_chunk(i))[j]);
      const float log = float_logs() ? reinterpret_cast<const float*>(log_chunk(i, j / 4))[j % 4]
                                     : widen(reinterpret_cast<const E*>(log_chunk(i, 0))[j]);
      sum += kl_of(args, mu, log).value;
    }
    return sum;
  }

 private:
  VDK_DEVICE void logs(int i, float (&v)[kVec<E>]) const {
    if (!float_logs()) {
      widen_all<E>(load_shared<Words4>(log_chunk(i, 0)).w, v);
      return;
    }
    VDK_UNROLL
    for (int word = 0; word < kLogWords; ++word) {
      const Words4 four = load_shared<Words4>(log_chunk(i, word));
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) v[4 * word + j] = as_float(four.w[j]);
    }
  }
  VDK_DEVICE void gather(const W& window, int i) const {
    if constexpr (P::kImages) {
      const int64_t at = window.chunk(i);
      gather(window, i, [&](int j) { return log_of<E>(args.w, at + j); });
      return;
    }
    const int64_t o = args.out - window.lines_left + i * C::kLinesAtOnce, at = args.in - window.elements_left;
    gather(window, i, [&](int j) { return log_at<E>(args.w, o, at + j); });
  }
  template <class Log>
  VDK_DEVICE void gather(const W& window, int i, Log&& log) const {
    VDK_UNROLL
    for (int word = 0; word < kLogWords; ++word) {
      float v[4];
      VDK_UNROLL
      for (int j = 0; j < 4; ++j) v[j] = window.has(i, 4 * word + j) ? log(4 * word + j) : 0.0f;
      Words4 words;
      narrow_all<float>(v, words.w);
      store_shared(log_chunk(i, word), words);
    }
  }
};

}  // namespace cuda
}  // namespace vdk
