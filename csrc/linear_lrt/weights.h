// The weights as GEMM operands: mu copied, sigma^2 computed, block by block, never as a whole.
#pragma once
#include <limits>

#include "../common/gemm.h"
#include "../common/vmath.h"
#include "../kl/terms.h"
#include "linear_lrt.h"

namespace vdk {
namespace VDK_ISA {

// How `log` is read; a template parameter, so that inner loops do not ask.
enum class Form { kLogSigma2, kLogAlpha, kLogAlphaOfRow };  // the last: one log_alpha for a whole row

template <Form kForm>
struct FormConstant {
  static constexpr Form value = kForm;
};

template <class T>
VDK_INLINE Form form_of(const LrtWeights<T>& w) {
  if (!w.is_alpha) return Form::kLogSigma2;
  return w.log_cols == 1 && w.in != 1 ? Form::kLogAlphaOfRow : Form::kLogAlpha;
}
template <class T>
VDK_INLINE bool is_full(const LrtWeights<T>& w) {
  return w.log_rows == w.out && w.log_cols == w.in;
}
template <class T>
VDK_INLINE const T* log_row(const LrtWeights<T>& w, int64_t o) {
  return w.log + (w.log_rows == 1 ? 0 : o * w.log_cols);
}

// A run of one row: mean, and S = sigma^2 with alpha or 1 beside it.
template <class T, Form kForm>
struct WeightRow {
  const T *mu, *log;
  int64_t in;
  T clip;
  Vec<T> alpha_of_row;

  VDK_INLINE WeightRow(const LrtWeights<T>& w, int64_t o)
      : mu(w.mu + o * w.in), log(log_row(w, o)), in(w.in), clip(w.clip), alpha_of_row{} {
    if constexpr (kForm == Form::kLogAlphaOfRow) alpha_of_row = vexp(broadcast(log[0]));
  }
  // Blocks take short pieces of long rows, which the hardware does not foresee.
  VDK_INLINE void prefetch(int64_t rows_ahead, int64_t i) const {
    __builtin_prefetch(mu + rows_ahead * in + i);
    __builtin_prefetch(log + rows_ahead * in + i);
  }
  VDK_INLINE Vec<T> mean(int64_t i, int64_t left) const { return load_first(mu + i, left); }
  VDK_INLINE Vec<T> exp_log(int64_t i, int64_t left) const {
    if constexpr (kForm == Form::kLogAlphaOfRow)
      return alpha_of_row;
    else
      return vexp(load_first(log + i, left));
  }
  // `v`, and 0 where this mean is clipped.
  VDK_INLINE Vec<T> unless_clipped(Vec<T> v, Vec<T> mean, Vec<T> exp_log) const {
    if (clip == std::numeric_limits<T>::infinity()) return v;
    const Vec<T> limit = kForm == Form::kLogSigma2 ? (mean * mean + T(kKlEps)) * clip : Vec<T>{} + clip;
    return exp_log >= limit ? Vec<T>{} : v;
  }
  VDK_INLINE static Vec<T> variance(Vec<T> mean, Vec<T> exp_log) {
    if constexpr (kForm == Form::kLogSigma2)
      return exp_log;
    else
      return exp_log * mean * mean;
  }
};

// Rows of the forward product: outputs, contiguous in the inputs. Each row's KL is summed where the first
// columns are computed, so once.
template <class T, Form kForm, class V>
struct WeightRows {
  const LrtWeights<T>& w;
  const Chunks& chunks;
  Prior prior;
  double* kl_of_row;  // [out]

  VDK_INLINE Packed<T, V> rows(int64_t o0, int64_t n, int64_t chunk, T* to, bool first_cols) const {
    const int64_t depth = chunks.depth, k0 = chunk * depth, k = chunks.length(chunk);
    const int64_t padded = round_up(n, Tile<T>::kRows);
    T* const mean = to;
    V* const variance = reinterpret_cast<V*>(to + padded * depth);
    alignas(64) T exp_of_row[Chunks::kMaxDepth];
    for (int64_t i = 0; i < padded; ++i) {
      T* const m = mean + i * depth;
      V* const v = variance + i * depth / kPerElement<V>;
      if (i >= n) {
        for (int64_t j = 0; j < depth; j += kLanes<T>) {
          store_first(m + j, Vec<T>{}, depth - j);
          store_along(v, j, Vec<T>{}, depth);
        }
        continue;
      }
      const WeightRow<T, kForm> row(w, o0 + i);
      for (int64_t j = 0; j < k; j += kLanes<T>) {
        row.prefetch(4, k0 + j);
        const Vec<T> mu = row.mean(k0 + j, k - j), e = row.exp_log(k0 + j, k - j);
        store_first(m + j, row.unless_clipped(mu, mu, e), depth - j);
        store_along(v, j, row.variance(mu, e), depth);
        store(exp_of_row + j, e);
      }
      if (first_cols && prior != Prior::kNone)
        kl_of_row[o0 + i] += kForm == Form::kLogSigma2
                                 ? kl_value(prior, row.mu + k0, row.log + k0, k, exp_of_row)
                                 : kl_value<T>(prior, nullptr, row.log + k0, k);
    }
    return {mean, variance, depth};
  }
};

// Panels of the input gradient's product: reduction over outputs, lanes along the inputs.
template <class T, Form kForm, class V>
struct WeightPanels {
  const LrtWeights<T>& w;
  const Chunks& chunks;

  VDK_INLINE Packed<T, V> panels(int64_t i0, int64_t n, int64_t chunk, T* to) const {
    constexpr int kCols = Tile<T>::kCols;
    const int64_t depth = chunks.depth, o0 = chunk * depth, k = chunks.length(chunk);
    const int64_t panel = depth * kCols, count = (n + kCols - 1) / kCols;
    V* const variance = reinterpret_cast<V*>(to + count * panel);
    for (int64_t o = 0; o < k; o += 2) {
      const WeightRow<T, kForm> even(w, o0 + o), odd(w, at_most(o0 + o + 1, w.out - 1));
      for (int64_t j = 0; j < n; j += kLanes<T>) {
        even.prefetch(8, i0 + j);
        odd.prefetch(8, i0 + j);
        const int64_t left = n - j, at = j / kCols * panel;
        const Vec<T> mu[2] = {even.mean(i0 + j, left), odd.mean(i0 + j, left)};
        const Vec<T> e[2] = {even.exp_log(i0 + j, left), odd.exp_log(i0 + j, left)};
        Vec<T> m[2], s[2];
        for (int i = 0; i < 2; ++i) {
          const bool inside = o + i < k;
          m[i] = inside ? even.unless_clipped(mu[i], mu[i], e[i]) : Vec<T>{};
          s[i] = inside ? even.variance(mu[i], e[i]) : Vec<T>{};
        }
        store_two(to + at, o, kCols, j % kCols, m[0], m[1]);
        store_two(variance + at / kPerElement<V>, o, kCols, j % kCols, s[0], s[1]);
      }
    }
    return {to, variance, panel};
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
