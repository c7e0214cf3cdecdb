// From global to shared memory: tiles copied as they are, and weights turned into means and variances on the way.
#pragma once
#include "../kl/cuda.cuh"
#include "cuda.h"
#include "tile.cuh"

namespace vdk {
namespace cuda {

// A dense row-major matrix; `whole`: rows keep the alignment of 16 bytes, so that a chunk is inside or outside.
template <class E>
struct Matrix {
  const E* data;
  int64_t lines, length;
  bool whole;

  VDK_DEVICE bool has(int64_t line, int64_t at) const { return line < lines && at < length; }
};

// How a block's threads share a tile in chunks of 16 bytes: the same for every tile, so a thread always meets its
// own chunks.
template <class Tile, int kThreads>
struct Chunks {
  static constexpr int kWidth = kVec<typename Tile::E>, kPerLine = Tile::kLength / kWidth;
  static constexpr int kLinesAtOnce = kThreads / kPerLine, kCount = Tile::kLines / kLinesAtOnce;
  static_assert(kThreads % kPerLine == 0 && Tile::kLines % kLinesAtOnce == 0);

  VDK_DEVICE static int line(int i) { return int(threadIdx.x) / kPerLine + i * kLinesAtOnce; }
  VDK_DEVICE static int at() { return int(threadIdx.x) % kPerLine * kWidth; }
};

// 16 bytes to shared memory, zeros outside the matrix: without waiting where alignment allows.
template <class E>
VDK_DEVICE void copy_chunk(void* to, const Matrix<E>& from, int64_t line, int64_t at) {
  const E* const source = from.data + line * from.length + at;
  if (from.whole) {
    const bool valid = from.has(line, at);
    cp_async16(to, valid ? source : from.data, valid);
    return;
  }
  float v[kVec<E>];
    VDK_UNROLL
  for (int i = 0; i < kVec<E>; ++i) v[i] = from.has(line, at + i) ? widen(load_global<E>(source + i)) : 0.0f;
  Words4 words;
  narrow_all<E>(v, words.w);
  store_shared(to, words);
}

template <class Tile, int kThreads, class E>
VDK_DEVICE void copy_tile(E* to, const Matrix<E>& from, int64_t line0, int64_t at0) {
  using C = Chunks<Tile, kThreads>;
    VDK_UNROLL
  for (int i = 0; i < C::kCount; ++i)
    copy_chunk(to + C::line(i) * Tile::kPitch + C::at(), from, line0 + C::line(i), at0 + C::at());
}

// e^x, of x at most 88. The fast one is off by up to 2^-20 at x = -20, nothing beside bfloat16 or tf32.
template <bool kExact>
VDK_DEVICE float exponential(float x) {
  if constexpr (kExact) return exp_f32(x);
  return approx_exp2(minimum(88.0f, x) * 1.44269504f);  // in this order NaN stays NaN
}

// A weight as the products see it.
struct MeanVariance {
  float mean, variance;
};
VDK_DEVICE bool is_clipped(const LrtWeights& w, float mu, float e) {
  return e >= w.exp_clip * (w.is_alpha ? 1.0f : mu * mu + float(kKlEps));
}
VDK_DEVICE MeanVariance mean_variance(const LrtWeights& w, float mu, float e) {
  return {is_clipped(w, mu, e) ? 0.0f : mu, w.is_alpha ? e * mu * mu : e};
}

// The log of weight (o, i), wherever `log` is broadcast from.
template <class E>
VDK_DEVICE float log_at(const LrtWeights& w, int64_t o, int64_t i) {
  const int64_t at = (w.log_rows == 1 ? 0 : o * w.log_cols) + (w.log_cols == 1 ? 0 : i);
  return w.log_is_float ? load_global<float>(static_cast<const float*>(w.log) + at)
                        : widen(load_global<E>(static_cast<const E*>(w.log) + at));
}

// KL of weight (mu, log) and its derivative by log_alpha.
VDK_DEVICE KlTerms<float> kl_of(Prior prior, bool is_alpha, float mu, float log) {
  const float a = is_alpha ? 1.0f : mu * mu + float(kKlEps);
  switch (prior) {
    case Prior::kLogUniform:
      return kl_of_weight<float, Prior::kLogUniform>(a, log, !is_alpha);
    case Prior::kKingma:
      return kl_of_weight<float, Prior::kKingma>(a, log, !is_alpha);
    case Prior::kExact:
      return kl_of_weight<float, Prior::kExact>(a, log, !is_alpha);
    case Prior::kArd:
      return kl_of_weight<float, Prior::kArd>(a, log, !is_alpha);
    case Prior::kNone:
      break;
  }
  return {0, 0};
}

// A tile of weights passes through a buffer in which every thread finds its own chunks, so no barrier is needed:
// `fetch` starts the copies of mu and log, `convert` turns what has landed into a tile of means and one of variances.
// Exponentials are so computed once a block, not once a warp and fragment.
template <class P>
struct WeightStage {
  using E = typename P::E;
  using C = Chunks<typename P::B, P::kThreads>;
  static constexpr int kLogWords = kVec<E> / 4;  // of 16 bytes, for a chunk of logs in float
  static constexpr int kBytes = C::kCount * P::kThreads * (1 + kLogWords) * 16;

  Words4* buffer;
  const LrtWeights& w;
  int64_t out, in;
  bool whole, whole_log;

  VDK_DEVICE Words4* mu_chunk(int slot, int i) const { return chunk(slot, i); }
  VDK_DEVICE Words4* log_chunk(int slot, int i, int word) const { return chunk(slot, C::kCount * (1 + word) + i); }

  VDK_DEVICE void fetch(int slot, int64_t o0, int64_t i0) const {
    const Matrix<E> mu{static_cast<const E*>(w.mu), out, in, whole};
    VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) {
      const int64_t o = o0 + C::line(i), at = i0 + C::at();
      copy_chunk(mu_chunk(slot, i), mu, o, at);
      if (!whole_log) {
        gather(slot, i, o, at);
      } else if (w.log_is_float) {
    VDK_UNROLL
        for (int word = 0; word < kLogWords; ++word)
          copy_chunk(log_chunk(slot, i, word), Matrix<float>{static_cast<const float*>(w.log), out, in, true}, o,
                     at + 4 * word);
      } else {
        copy_chunk(log_chunk(slot, i, 0), Matrix<E>{static_cast<const E*>(w.log), out, in, true}, o, at);
      }
    }
  }

  template <class V>
  VDK_DEVICE void convert(int slot, E* means, V* variances) const {
    VDK_UNROLL
    for (int i = 0; i < C::kCount; ++i) {
      float mu[kVec<E>], v[kVec<E>];
      widen_all<E>(load_shared<Words4>(mu_chunk(slot, i)).w, mu);
      if (w.log_is_float || !whole_log) {
        uint32_t words[kVec<E>];
    VDK_UNROLL
        for (int word = 0; word < kLogWords; ++word) {
          const Words4 four = load_shared<Words4>(log_chunk(slot, i, word));
    VDK_UNROLL
          for (int j = 0; j < 4; ++j) words[4 * word + j] = four.w[j];
        }
        widen_all<float>(words, v);
      } else {
        widen_all<E>(load_shared<Words4>(log_chunk(slot, i, 0)).w, v);
      }
    VDK_UNROLL
      for (int j = 0; j < kVec<E>; ++j) {
        const MeanVariance weight = mean_variance(w, mu[j], exponential<P::Math::kExactExp>(v[j]));
        mu[j] = weight.mean;
        v[j] = weight.variance;
      }
      const int at = C::line(i) * P::B::kPitch + C::at();
      Words4 words;
      narrow_all<E>(mu, words.w);
      store_shared(means + at, words);
      narrow_all<V>(v, words.w);
      store_shared(variances + at, words);
    }
  }

  // The KL of this thread's chunks: read again, one weight at a time, since its formula is long and would multiply
  // the registers and instructions of the loop around it.
  VDK_DEVICE float kl(Prior prior, int slot, int64_t o0, int64_t i0) const {
    float sum = 0;
    VDK_ROLLED
    for (int n = 0; n < C::kCount * kVec<E>; ++n) {
      const int i = n / kVec<E>, j = n % kVec<E>;
      if (o0 + C::line(i) >= out || i0 + C::at() + j >= in) continue;
      const float mu = widen(reinterpret_cast<const E*>(mu_chunk(slot, i))[j]);
      const float log = w.log_is_float || !whole_log
                            ? reinterpret_cast<const float*>(log_chunk(slot, i, j / 4))[j % 4]
                            : widen(reinterpret_cast<const E*>(log_chunk(slot, i, 0))[j]);
      sum += kl_of(prior, w.is_alpha, mu, log).value;
    }
    return sum;
  }

 private:
  VDK_DEVICE Words4* chunk(int slot, int i) const {
    return buffer + slot * (kBytes / 16) + i * P::kThreads + threadIdx.x;
  }
  VDK_DEVICE void gather(int slot, int i, int64_t o, int64_t at) const {
    VDK_UNROLL
    for (int word = 0; word < kLogWords; ++word) {
      float v[4];
    VDK_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int64_t col = at + 4 * word + j;
        v[j] = o < out && col < in ? log_at<E>(w, o, col) : 0.0f;
      }
      Words4 words;
      narrow_all<float>(v, words.w);
      store_shared(log_chunk(slot, i, word), words);
    }
  }
};

}  // namespace cuda
}  // namespace vdk
