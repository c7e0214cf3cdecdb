// Blocks of rows: each thread masks features of its rows, multiplies them into logits, turns these into
// losses and their gradients, and multiplies back into dh, all in its cache; then the block's masked features
// and gradients of logits give dW. Nothing the size of all M passes is ever held, and blocks depend on the
// shape alone.
#include "multi_sample_head.h"

#include "../common/vmath.h"
#include "masked.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kRowsAtOnce = 48;         // of masked features, a thread's
constexpr int64_t kBlockBytes = 1 << 20;    // of a block's masked features and gradients of logits
constexpr int64_t kWorthAThread = 1 << 17;  // multiplications

template <class T>
struct Head {
  static constexpr int kCols = Tile<T>::kCols, kRows = Tile<T>::kRows;

  const HeadArgs<T>& a;
  const Masks<T> masks;
  const int64_t class_panels, feature_panels;
  const int64_t feature_ld, class_ld;   // of rows
  double class_weights = 0;             // their sum
  int64_t block;                        // rows of h in a block
  int64_t slots, slot_ld;               // masked rows of a block
  T *forward_panels, *backward_panels;  // of W
  T *masked_panels, *logit_grads;       // [features / kCols][slots][kCols], [classes][slot_ld]

  explicit Head(const HeadArgs<T>& args)
      : a(args),
        masks(a.seed, a.rows, a.features, a.p),
        class_panels((a.classes + kCols - 1) / kCols),
        feature_panels((a.features + kCols - 1) / kCols),
        feature_ld(round_up(a.features, kCols) + kLanes<T>),
        class_ld(class_panels * kCols + kLanes<T>) {
    for (int64_t k = 0; k < a.classes; ++k) class_weights += a.class_weight ? double(a.class_weight[k]) : 1.0;
    const int64_t rows = at_least(kBlockBytes / int64_t(sizeof(T)) / (a.features + a.classes), kRowsAtOnce);
    const int64_t wanted = at_least(rows / a.samples, 1), blocks = (a.rows + wanted - 1) / wanted;
    block = (a.rows + blocks - 1) / blocks;
    slots = block * a.samples;
    slot_ld = slots + kLanes<T>;
  }

  size_t carve(Carver carver) {
    forward_panels = carver.take<T>(class_panels * kCols * a.features);
    backward_panels = carver.take<T>(a.dh ? feature_panels * kCols * a.classes : 0);
    masked_panels = carver.take<T>(a.dweight ? feature_panels * kCols * slots : 0);
    logit_grads = carver.take<T>(a.dweight ? round_up(a.classes, kRows) * slot_ld : 0);
    return carver.used();
  }

  // rows [rows][k] times panels: c [rows][cols]
  VDK_INLINE void multiply(int64_t rows, int64_t k, const T* x, int64_t ldx, const T* panel, int64_t cols,
                           T* c, int64_t ldc) const {
    const auto kernel = cols <= kLanes<T> ? microkernel<T, 1, T> : microkernel<T, Tile<T>::kVectors, T>;
    for (int64_t k0 = 0; k0 < k; k0 += Chunks::kMaxDepth)
      for (int64_t i = 0; i < rows; i += kRows)
        kernel(at_most(Chunks::kMaxDepth, k - k0), x + i * ldx + k0, ldx, panel + k0 * kCols, c + i * ldc,
               ldc, k0 > 0);
  }

  // Logits of a row become the gradient of its loss by them; returns the loss.
  double loss_of(T* z, int64_t b) const {
    const int64_t y = a.target[b], n = a.classes;
    if (y == a.ignore_index) {
      for (int64_t k = 0; k < n; ++k) z[k] = 0;
      return 0;
    }
    Vec<T> top = broadcast(z[0] + (a.bias ? a.bias[0] : T(0)));
    for (int64_t k = 0; k < n; k += kLanes<T>) {
      if (a.bias) store_first(z + k, load_first(z + k, n - k) + load_first(a.bias + k, n - k), n - k);
      if (n - k >= kLanes<T>) top = maximum(load(z + k), top);
    }
    T most = top[0];
    for (int i = 1; i < kLanes<T>; ++i) most = most > top[i] ? most : top[i];
    for (int64_t k = n / kLanes<T> * kLanes<T>; k < n; ++k) most = most > z[k] ? most : z[k];
    const double of_target = double(z[y]), weight = a.class_weight ? double(a.class_weight[y]) : 1.0;
    double smooth = 0;
    if (a.smoothing > 0)
      for (int64_t k = 0; k < n; ++k)
        smooth += (a.class_weight ? double(a.class_weight[k]) : 1.0) * double(z[k]);
    Vec<T> sums{};
    double sum = 0;
    for (int64_t k = 0; k < n; k += kLanes<T>) {
      const Vec<T> e = vexp(load_first(z + k, n - k) - most);
      store_first(z + k, e, n - k);
      if (n - k >= kLanes<T>)
        sums = sums + e;
      else
        for (int64_t i = 0; i < n - k; ++i) sum += double(e[i]);
    }
    sum += double(sum_lanes<T>(sums));
    const double lse = double(most) + log(sum), sharp = (1 - a.smoothing) * weight;
    const double even = a.smoothing / double(n);
    const double scale = a.scale * (a.row_scale ? double(a.row_scale[b]) : 1.0);
    const T of_all = T(scale * (sharp + even * class_weights) / sum), of_class = T(scale * even);
    for (int64_t k = 0; k < n; k += kLanes<T>) {
      Vec<T> g = load_first(z + k, n - k) * of_all;
      if (a.smoothing > 0)
        g = g - (a.class_weight ? load_first(a.class_weight + k, n - k) : broadcast(T(1))) * of_class;
      store_first(z + k, g, n - k);
    }
    z[y] -= T(scale * sharp);
    return sharp * (lse - of_target) + even * (class_weights * lse - smooth);
  }

  struct Own {  // a thread's
    T *masked, *logits, *back;
    int64_t* row;  // of h
    double* loss;
  };

  // dh += the masked part of the gradients of logits times W
  void features_back(const Own& own, int64_t count) const {
    for (int64_t panel = 0; panel < feature_panels; ++panel) {
      const int64_t d0 = panel * kCols;
      multiply(count, a.classes, own.logits, class_ld, backward_panels + d0 * a.classes, a.features - d0,
               own.back, kCols);
      for (int64_t r = 0; r < count; ++r)
        for (int64_t d = d0; d < a.features && d < d0 + kCols; d += kLanes<T>) {
          T* const to = a.dh + own.row[r] * a.features + d;
          const Vec<T> g = load(own.back + r * kCols + d - d0) * masks.scale;
          const int64_t left = a.features - d;
          store_first(to, load_first(to, left) + where_kept<T>(load(own.masked + r * feature_ld + d), g),
                      left);
        }
    }
  }

  // `count` masked rows, of slots from `slot` on
  void pass(const Own& own, int64_t count, int64_t slot) const {
    for (int64_t panel = 0; panel < class_panels; ++panel)
      multiply(count, a.features, own.masked, feature_ld, forward_panels + panel * kCols * a.features,
               a.classes - panel * kCols, own.logits + panel * kCols, class_ld);
    for (int64_t r = 0; r < count; ++r)
      own.loss[own.row[r]] += loss_of(own.logits + r * class_ld, own.row[r]);
    if (a.dh) features_back(own, count);
    if (!a.dweight) return;
    for (int64_t k = 0; k < a.classes; ++k)
      for (int64_t r = 0; r < count; ++r) logit_grads[k * slot_ld + slot + r] = own.logits[r * class_ld + k];
  }

  // All samples of the rows [begin, end) of h, in a block that starts at row `first`.
  void rows(int64_t first, int64_t begin, int64_t end, double* losses) const {
    Own own{};
    const auto carve_own = [&](Carver carver) {
      own.masked = carver.take<T>((kRowsAtOnce + kRows) * feature_ld + 4 * kLanes<float>);
      own.logits = carver.take<T>((kRowsAtOnce + kRows) * class_ld);
      own.back = carver.take<T>((kRowsAtOnce + kRows) * kCols);
      own.row = carver.take<int64_t>(kRowsAtOnce);
      return carver.used();
    };
    carve_own(Carver(scratch(Scratch::kTask, carve_own(Carver()))));
    own.loss = losses;
    for (int64_t b = begin; b < end; ++b) losses[b] = 0;
    if (a.dh) __builtin_memset(a.dh + begin * a.features, 0, size_t((end - begin) * a.features) * sizeof(T));
    int64_t count = 0, slot = (begin - first) * a.samples;
    for (int64_t b = begin; b < end; ++b)
      for (int64_t s = 0; s < a.samples; s += 4) {
        const int64_t taken = at_most(4, a.samples - s);
        if (count + taken > kRowsAtOnce) {
          pass(own, count, slot);
          slot += count;
          count = 0;
        }
        masks.rows_of(a.h, b, s / 4, taken, a.features, own.masked + count * feature_ld, feature_ld,
                      a.dweight ? masked_panels : nullptr, slots, slot + count);
        for (int64_t i = 0; i < taken; ++i) own.row[count + i] = b;
        count += taken;
      }
    pass(own, count, slot);
  }

  // One tile of dW from the `count` slots of a block.
  void weight_tile(int64_t tile, int64_t count, bool accumulate) const {
    const int64_t panel = tile % feature_panels, k0 = tile / feature_panels * kRows, d0 = panel * kCols;
    alignas(64) T c[kRows * kCols];
    multiply(kRows, count, logit_grads + k0 * slot_ld, slot_ld, masked_panels + panel * slots * kCols,
             a.features - d0, c, kCols);
    for (int64_t k = k0; k < a.classes && k < k0 + kRows; ++k) {
      for (int64_t d = d0; d < a.features && d < d0 + kCols; d += kLanes<T>) {
        T* const to = a.dweight + k * a.features + d;
        Vec<T> v = load(c + (k - k0) * kCols + d - d0);
        if (accumulate) v = v + load_first(to, a.features - d);
        store_first(to, v, a.features - d);
      }
      if (!a.dbias || panel) continue;
      double sum = accumulate ? double(a.dbias[k]) : 0;
      for (int64_t r = 0; r < count; ++r) sum += double(logit_grads[k * slot_ld + r]);
      a.dbias[k] = T(sum);
    }
  }

  int64_t tasks(int64_t n, int64_t work, const Parallel& parallel) const {
    return at_least(at_most(at_most(n, parallel.threads), work / kWorthAThread + 1), 1);
  }

  void run(const Parallel& parallel, double* losses) {
    const int64_t weights = a.classes * a.features,
                  packers = tasks(class_panels + feature_panels, 8 * weights, parallel);
    parallel(packers, [&](int64_t task) {
      const Range some = part_of(class_panels, 1, task, packers),
                  others = part_of(feature_panels, 1, task, packers);
      for (int64_t p = some.begin; p < some.end; ++p)
        pack_transposed(a.weight, a.classes, a.features, p, forward_panels + p * kCols * a.features);
      for (int64_t p = others.begin; a.dh && p < others.end; ++p)
        pack_straight(a.weight, a.features, a.classes, p, backward_panels + p * kCols * a.classes);
    });
    for (int64_t first = 0; first < a.rows; first += block) {
      const int64_t n = at_most(block, a.rows - first), work = n * a.samples * (weights + 4 * a.features);
      const int64_t threads = tasks(n, work, parallel);
      parallel(threads, [&](int64_t task) {
        const Range mine = part_of(n, 1, task, threads);
        if (mine.begin < mine.end) rows(first, first + mine.begin, first + mine.end, losses);
      });
      if (!a.dweight) continue;
      const int64_t tiles = (a.classes + kRows - 1) / kRows * feature_panels,
                    workers = tasks(tiles, work, parallel);
      parallel(workers, [&](int64_t task) {
        const Range mine = part_of(tiles, 1, task, workers);
        for (int64_t tile = mine.begin; tile < mine.end; ++tile) weight_tile(tile, n * a.samples, first > 0);
      });
    }
  }
};

template <class T>
void head(const HeadArgs<T>& args, const Parallel& parallel) {
  Head<T> all(args);
  double* losses = nullptr;
  const auto carve = [&](Carver carver) {
    losses = carver.take<double>(args.rows);
    // what comes before is counted along
    return all.carve(carver);
  };
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
  all.run(parallel, losses);
  for (int64_t b = 0; b < args.rows; ++b) args.losses[b] = T(losses[b] / double(args.samples));
}

}  // namespace

void multi_sample_head(const HeadArgs<float>& args, const Parallel& parallel) { head(args, parallel); }
void multi_sample_head(const HeadArgs<double>& args, const Parallel& parallel) { head(args, parallel); }

}  // namespace VDK_ISA
}  // namespace vdk
