// Forward: weights are the rows (so a weight is read along the inputs, as it lies), the batch the lanes; a
// finished block is transposed on its way out. Backward: dx has the batch as rows and inputs as lanes, the
// weight gradients outputs as rows and inputs as lanes. So no operand of weight size is ever transposed.
#include "activations.h"
#include "weights.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kL2Bytes = 256 << 10;  // of a core's L2, what a packed block may take
// of weights it may take more where L2 is larger: the longer the pieces of rows read, the fewer misses
constexpr int64_t kPanelBytes = VDK_VECTOR_BYTES == 64 ? 2 * kL2Bytes : kL2Bytes;
constexpr int64_t kActivationBytes = 64 << 20;  // packed activations of one part of the batch

// Rows of the batch handled at a time, so that packed activations stay bounded.
int64_t batch_part(int64_t batch, int64_t bytes_per_row) {
  return at_least(at_most(batch, round_up(kActivationBytes / at_least(bytes_per_row, 1), 48)), 1);
}

// The block [outputs, batch] of means and variances becomes y and std, [batch, outputs].
template <class T>
struct SampleBlock {
  const LinearLrtForward<T>& a;
  const NoiseGrid& noise;
  int64_t b0;  // first row of this part of the batch

  void operator()(int64_t o0, int64_t n_out, int64_t m0, int64_t n_batch, const T* mean, const T* variance,
                  int64_t ldc, const Grid&) const {
    constexpr int kL = kLanes<T>;
    const int64_t out = a.w.out;
    for (int64_t o = 0; o < n_out; o += kL)
      for (int64_t m = 0; m < n_batch; m += kL) {
        const int64_t row = b0 + m0 + m, col = o0 + o;
        Vec<T> y[kL], s[kL], z[kL < 4 ? 4 : kL];
        for (int j = 0; j < kL; j += 4)
          if (o + j < n_out) normals_of_rows(noise, row, (col + j) / 4, z + j);
        const int first = kL < 4 ? int(col % 4) : 0;
        for (int j = 0; j < kL; ++j) {
          y[j] = s[j] = Vec<T>{};
          if (o + j >= n_out) continue;
          s[j] = square_root(load(variance + (o + j) * ldc + m) + a.eps);
          y[j] = s[j] * z[first + j] + load(mean + (o + j) * ldc + m) + (a.bias ? a.bias[col + j] : T(0));
        }
        transpose<T>(y);
        transpose<T>(s);
        for (int i = 0; i < kL && m + i < n_batch; ++i) {
          store_first(a.y + (row + i) * out + col, y[i], n_out - o);
          store_first(a.std + (row + i) * out + col, s[i], n_out - o);
        }
      }
  }
};

template <class T, Form kForm, class V>
double forward(const LinearLrtForward<T>& a, const Parallel& all) {
  const LrtWeights<T>& w = a.w;
  const NoiseGrid noise(a.seed, w.out);
  const int64_t part = batch_part(a.batch, 2 * w.in * int64_t(sizeof(T)));
  const Parallel parallel = limited(all, 4 * part * w.out * w.in);
  const Chunks chunks(w.in, VDK_VECTOR_BYTES == 64 ? 256 : 320);
  Resident<T, V> x = resident_panels<T, V>(chunks, part);
  double* kl_of_row;
  const auto carve = [&](Carver carver) {
    x.carve(carver);
    kl_of_row = carver.take<double>(w.out);
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  for (int64_t o = 0; o < w.out; ++o) kl_of_row[o] = 0;
  const Blocking blocking{VDK_VECTOR_BYTES == 64 ? 48 : 24, round_up(part, Tile<T>::kCols), chunks};
  for (int64_t b0 = 0; b0 < a.batch; b0 += part) {
    const int64_t n = at_most(part, a.batch - b0), panels = (n + Tile<T>::kCols - 1) / Tile<T>::kCols;
    parallel(parallel.threads, [&](int64_t task) {
      share(chunks.count * panels, task, parallel.threads,
            [&](int64_t i) { pack_transposed_panel(a.x + b0 * w.in, n, w.in, x, i / panels, i % panels); });
    });
    const WeightRows<T, kForm, V> rows{w, chunks, b0 == 0 ? a.prior : Prior(), kl_of_row};
    dual_gemm<T, V>(w.out, n, blocking, make_grid<T>(w.out, n, parallel.threads, OnTheFly::kRows), rows, x,
                    SampleBlock<T>{a, noise, b0}, parallel);
  }
  if (a.batch == 0 && a.prior != Prior::kNone)
    for (int64_t o = 0; o < w.out; ++o) {
      const WeightRow<T, kForm> row(w, o);
      kl_of_row[o] = kl_value(a.prior, kForm == Form::kLogSigma2 ? row.mu : nullptr, row.log, w.in);
    }
  double kl = 0;
  for (int64_t o = 0; o < w.out; ++o) kl += kl_of_row[o];
  return kl;
}

// The block [outputs, inputs] of dy^T x and g2^T x^2 becomes the weight gradients.
template <class T, Form kForm>
struct WeightGradientBlock {
  const LinearLrtBackward<T>& a;
  bool accumulate, last;  // which part of the batch this is
  T* column_sums;         // [grid rows, in], for log_alpha shared by a column
  double* row_sums;       // [grid cols, out], for log_alpha shared by a row

  void operator()(int64_t o0, int64_t n_out, int64_t i0, int64_t n_in, const T* mean, const T* variance,
                  int64_t ldc, const Grid& cell) const {
    const bool full = is_full(a.w), by_column = !full && a.w.log_cols == a.w.in;
    for (int64_t o = 0; o < n_out; ++o) {
      const WeightRow<T, kForm> row(a.w, o0 + o);
      const int64_t at = (o0 + o) * a.w.in + i0;
      T* const dlog = full ? a.dlog + at : by_column ? column_sums + cell.rows * a.w.in + i0 : nullptr;
      Vec<T> row_sum{};
      for (int64_t i = 0; i < n_in; i += kKlBlock)
        run(row, i0 + i, at_most(kKlBlock, n_in - i), mean + o * ldc + i, variance + o * ldc + i,
            a.dmu + at + i, dlog ? dlog + i : nullptr, full ? accumulate : true, row_sum);
      if (!dlog) row_sums[cell.cols * a.w.out + o0 + o] += double(sum_lanes<T>(row_sum));
    }
  }

  // Part of a row, at most a block of the KL's, whose gradient is added here: no pass of its own.
  VDK_INLINE void run(const WeightRow<T, kForm>& row, int64_t i0, int64_t n, const T* mean, const T* variance,
                      T* dmu, T* dlog, bool add_log, Vec<T>& row_sum) const {
    constexpr bool kSigma2 = kForm == Form::kLogSigma2;
    using V = Vec<T>;
    const auto write = [&](int64_t i, int64_t left, V mu, V e, V kl_mu, V kl_log)
                           __attribute__((always_inline)) {
                             const V gv = load(variance + i);
                             V dm = row.unless_clipped(load(mean + i), mu, e) + kl_mu;
                             V dl = gv * row.variance(mu, e) * T(0.5) + kl_log;
                             if constexpr (!kSigma2) dm += gv * e * mu;
                             if (accumulate) dm += load_first(dmu + i, left);
                             store_first(dmu + i, dm, left);
                             if (dlog) {
                               if (add_log) dl += load_first(dlog + i, left);
                               store_first(dlog + i, dl, left);
                             } else {
                               row_sum += left >= kLanes<T> ? dl : keep_first<T>(dl, left);
                             }
                           };
    if (!last || a.prior == Prior::kNone) {
      for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        row.prefetch(1, i0 + i);
        write(i, left, row.mean(i0 + i, left), row.exp_log(i0 + i, left), V{}, V{});
      });
      return;
    }
    alignas(64) T exp_log[kKlBlock];
    const auto add_kl = [&](int64_t i, int64_t left, const Weight<V>& w, V slope,
                            V pull) __attribute__((always_inline)) {
      row.prefetch(1, i0 + i);
      const V mu = row.mean(i0 + i, left);
      write(i, left, mu, w.s, kSigma2 ? mu * pull * a.kl_scale : V{}, slope * a.kl_scale);
    };
    kl_block<KlWants::kSlopes>(a.prior, kSigma2 ? row.mu + i0 : nullptr, row.log + i0, n, exp_log, false,
                               add_kl);
  }
};

// Sums kept per cell of the grid become the gradient of a shared log_alpha.
template <class T>
void reduce_shared(const LinearLrtBackward<T>& a, const Grid& grid, const T* column_sums,
                   const double* row_sums) {
  const LrtWeights<T>& w = a.w;
  if (w.log_cols == w.in) {
    for (int64_t i = 0; i < w.in; ++i) {
      T sum = 0;
      for (int64_t r = 0; r < grid.rows; ++r) sum += column_sums[r * w.in + i];
      a.dlog[i] = sum;
    }
    return;
  }
  double total = 0;
  for (int64_t o = 0; o < w.out; ++o) {
    double sum = 0;
    for (int64_t c = 0; c < grid.cols; ++c) sum += row_sums[c * w.out + o];
    total += sum;
    if (w.log_rows == w.out) a.dlog[o] = T(sum);
  }
  if (w.log_rows != w.out) a.dlog[0] = T(total);
}

// dbias = sum of dy over the batch, one vector of it, in runs of 256 rows so that rounding does not grow with
// the batch.
template <class T>
void bias_gradient(const LinearLrtBackward<T>& a, int64_t vector) {
  const int64_t out = a.w.out, o = vector * kLanes<T>, left = out - o;
  Vec<T> total{};
  for (int64_t m0 = 0; m0 < a.batch; m0 += 256) {
    Vec<T> sum{};
    for (int64_t m = m0; m < at_most(m0 + 256, a.batch); ++m) sum += load_first(a.dy + m * out + o, left);
    total += sum;
  }
  store_first(a.dbias + o, total, left);
}

template <class T, Form kForm, class V>
void backward(const LinearLrtBackward<T>& a, const Parallel& all) {
  constexpr int kL = kLanes<T>, kCols = Tile<T>::kCols;
  const LrtWeights<T>& w = a.w;
  const NoiseGrid noise(a.seed, w.out);
  const int64_t row_bytes =
      int64_t(sizeof(T)) * ((a.dx ? 2 * w.out : 0) + (a.dlog ? 2 * w.out + 2 * w.in : 0));
  const int64_t part = batch_part(a.batch, row_bytes);
  const Parallel parallel = limited(all, 4 * part * w.out * w.in);
  const Chunks over_out(w.out, 256), over_batch(part, 256);
  Resident<T, V> by_batch = resident_rows<T, V>(over_out, part),
                 by_out = resident_rows<T, V>(over_batch, w.out);
  Resident<T, V> x = resident_panels<T, V>(over_batch, w.in);
  const Grid weight_grid = make_grid<T>(w.out, w.in, parallel.threads, OnTheFly::kNothing);
  const bool shared = a.dlog && !is_full(w);
  T* column_sums = nullptr;
  double* row_sums = nullptr;
  const auto carve = [&](Carver carver) {
    if (a.dx) by_batch.carve(carver);
    if (a.dlog) {
      by_out.carve(carver);
      x.carve(carver);
    }
    if (shared) {
      column_sums = carver.take<T>(weight_grid.rows * w.in);
      row_sums = carver.take<double>(weight_grid.cols * w.out);
    }
    return carver.used();
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  if (shared) {
    for (int64_t i = 0; i < weight_grid.rows * w.in; ++i) column_sums[i] = 0;
    for (int64_t i = 0; i < weight_grid.cols * w.out; ++i) row_sums[i] = 0;
  }
  if (a.dlog) {
    advise_huge_pages(a.dmu, size_t(w.out * w.in) * sizeof(T));
    if (!shared) advise_huge_pages(a.dlog, size_t(w.out * w.in) * sizeof(T));
  }

  int64_t b0 = 0;
  do {  // once even for an empty batch: the KL's gradient is still due
    const int64_t n = at_most(part, a.batch - b0);
    const T* const xb = a.x + b0 * w.in;
    const GradientPacker<T, V> pack{
        a.dy + b0 * w.out, a.std + b0 * w.out, n, w.out, b0, noise, by_batch, by_out};
    const int64_t down = (n + kL - 1) / kL, across = (w.out + kL - 1) / kL,
                  panels = (w.in + kCols - 1) / kCols;
    x.chunks = by_out.chunks = over_batch.first(n);  // the last part may be shorter
    parallel(parallel.threads, [&](int64_t task) {
      share(down * across, task, parallel.threads, [&](int64_t i) { pack(i % down * kL, i / down * kL); });
      if (a.dlog)
        share(x.chunks.count * panels, task, parallel.threads,
              [&](int64_t i) { pack_panel(xb, w.in, x, i / panels, i % panels); });
      if (a.dbias && b0 == 0) share(across, task, parallel.threads, [&](int64_t i) { bias_gradient(a, i); });
    });
    if (a.dx && n > 0) {
      const int64_t rows = round_up(n, kRowUnit);
      const int64_t cols = at_least(kPanelBytes / int64_t(2 * sizeof(T)) / over_out.depth / kCols, 1) * kCols;
      const Blocking blocking{rows, cols, over_out};
      const auto finish = [&](int64_t m0, int64_t n_batch, int64_t i0, int64_t n_in, const T* mean,
                              const T* variance, int64_t ldc, const Grid&) {
        for (int64_t m = 0; m < n_batch; ++m)
          for (int64_t i = 0; i < n_in; i += kL) {
            const int64_t at = (m0 + m) * w.in + i0 + i, left = n_in - i;
            const Vec<T> dx =
                load(mean + m * ldc + i) + load_first(xb + at, left) * load(variance + m * ldc + i);
            store_first(a.dx + b0 * w.in + at, dx, left);
          }
      };
      dual_gemm<T, V>(n, w.in, blocking, make_grid<T>(n, w.in, parallel.threads, OnTheFly::kPanels), by_batch,
                      WeightPanels<T, kForm, V>{w, over_out}, finish, parallel);
    }
    if (a.dlog) {
      const int64_t cols = at_least(kL2Bytes / int64_t(2 * sizeof(T)) / at_least(n, 1) / kCols, 4) * kCols;
      const Blocking blocking{kRowUnit, at_most(cols, 1024), x.chunks};
      dual_gemm<T, V>(w.out, w.in, blocking, weight_grid, by_out, x,
                      WeightGradientBlock<T, kForm>{a, b0 > 0, b0 + n >= a.batch, column_sums, row_sums},
                      parallel);
    }
    b0 += n;
  } while (b0 < a.batch);
  if (shared) reduce_shared(a, weight_grid, column_sums, row_sums);
}

// f(form, element of the packed variance operands), the form as a constant.
template <class V, class T, class F>
auto with_form(const LrtWeights<T>& w, F&& f) {
  switch (form_of(w)) {
    case Form::kLogSigma2:
      return f(FormConstant<Form::kLogSigma2>{}, V{});
    case Form::kLogAlpha:
      return f(FormConstant<Form::kLogAlpha>{}, V{});
    default:
      return f(FormConstant<Form::kLogAlphaOfRow>{}, V{});
  }
}
template <class T, class F>
auto with_instance(const LrtWeights<T>& w, bool pairs, F&& f) {
#ifdef VDK_HAS_PAIRS
  if constexpr (sizeof(T) == 4)
    if (pairs) return with_form<Pair>(w, f);
#endif
  (void)pairs;
  return with_form<T>(w, f);
}

template <class T>
double forward_any(const LinearLrtForward<T>& a, const Parallel& parallel) {
  return with_instance(a.w, a.variance_in_pairs, [&](auto form, auto element) {
    return forward<T, decltype(form)::value, decltype(element)>(a, parallel);
  });
}
template <class T>
void backward_any(const LinearLrtBackward<T>& a, const Parallel& parallel) {
  with_instance(a.w, a.variance_in_pairs, [&](auto form, auto element) {
    backward<T, decltype(form)::value, decltype(element)>(a, parallel);
  });
}

}  // namespace

double linear_lrt_forward(const LinearLrtForward<float>& a, const Parallel& p) { return forward_any(a, p); }
double linear_lrt_forward(const LinearLrtForward<double>& a, const Parallel& p) { return forward_any(a, p); }
void linear_lrt_backward(const LinearLrtBackward<float>& a, const Parallel& p) { backward_any(a, p); }
void linear_lrt_backward(const LinearLrtBackward<double>& a, const Parallel& p) { backward_any(a, p); }

}  // namespace VDK_ISA
}  // namespace vdk
