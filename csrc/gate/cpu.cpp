// Bound by memory where a channel has many elements: x is read and y written once, in both layouts. Where it
// has one (linear layers) the draw weighs as much as the product, so it runs in vectors of channels.
#include "../common/workspace.h"
#include "draw.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kElementsPerTask = 1 << 14;  // fewer are not worth waking a thread
constexpr int64_t kElementsPerSum = 64;        // of a channel, at least, before its sum goes to memory

// A row's gates: drawn when they are needed, or, where they are the same for every row, before.
template <class T>
class Gates {
 public:
  Gates(const GateDistribution<T>& g, const GateShape& s, bool derivatives)
      : g_(g), channels_(s.channels), derivatives_(derivatives), grid_(g.seed, s.channels) {
    const bool fixed = !g.per_sample && g.kind != GateKind::kSwitch;
    const int64_t chunks = fixed ? (s.channels + kGateChunk - 1) / kGateChunk : 0;
    const int64_t vectors =
        g.kind == GateKind::kLogNormal ? (s.channels + kLanes<double> - 1) / kLanes<double> : 0;
    const size_t bytes = carve(nullptr, vectors, chunks);
    carve(scratch(Scratch::kShared, bytes), vectors, chunks);
    if (vectors) prepare_channels(g, s.channels, prepared_);
    for (int64_t c = 0; c < chunks; ++c) draw(0, c * kGateChunk, rows_[c]);
    if (!chunks) rows_ = nullptr;
  }

  // Of channels [first, first + kGateChunk) of a row, in `own` or in memory of all rows; first is a multiple
  // of kRunLength, and of kGateChunk where one row serves all.
  const GateRow<T>& of(int64_t row, int64_t first, GateRow<T>& own) const {
    if (rows_) return rows_[first / kGateChunk];
    if (g_.kind == GateKind::kSwitch) {
      for (int64_t i = 0; i < kGateChunk && first + i < channels_; ++i) {
        own.theta[i] = g_.location[first + i];
        own.by_location[i] = T(1);
        own.by_log_sigma2[i] = T(0);
      }
    } else {
      draw(row, first, own);
    }
    return own;
  }

 private:
  size_t carve(void* base, int64_t vectors, int64_t chunks) {
    Carver carver(base);
    prepared_ = carver.take<LogNormalChannels<VecD>>(vectors);
    rows_ = carver.take<GateRow<T>>(chunks);
    return carver.used();
  }

  void draw(int64_t row, int64_t first, GateRow<T>& out) const {
    const int64_t left = channels_ - first;
    draw_gates(g_, prepared_, grid_, row, first, left < kGateChunk ? left : kGateChunk, derivatives_, out);
  }

  const GateDistribution<T>& g_;
  int64_t channels_;
  bool derivatives_;
  NoiseGrid grid_;
  LogNormalChannels<VecD>* prepared_;
  GateRow<T>* rows_;
};

// The channels of one row that a chunk's gates belong to, and where they lie.
struct Piece {
  int64_t row, first, n;
};

template <class T, class F>
void for_vectors(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) f(i, int64_t(kLanes<T>));
  if (i < n) f(i, n - i);
}

template <class T>
void multiply(const GateShape& s, const Piece& p, const T* x, const T* theta, T* y) {
  if (s.channels_last || s.spatial == 1) {
    for (int64_t i = 0; i < s.spatial; ++i) {
      const int64_t at = (p.row * s.spatial + i) * s.channels + p.first;
      for_vectors<T>(p.n, [&](int64_t c, int64_t n) {
        store_first(y + at + c, load_first(x + at + c, n) * load(theta + c), n);
      });
    }
    return;
  }
  for (int64_t c = 0; c < p.n; ++c) {
    const int64_t at = (p.row * s.channels + p.first + c) * s.spatial;
    const Vec<T> factor = broadcast(theta[c]);
    for_vectors<T>(s.spatial, [&](int64_t i, int64_t n) {
      store_first(y + at + i, load_first(x + at + i, n) * factor, n);
    });
  }
}

// sums[c] += sum of dy x over the channel's elements, and dx = dy theta on the way where it is wanted
template <class T, bool kSums>
void multiply_and_sum(const GateShape& s, const Piece& p, const T* dy, const T* x, const T* theta, T* dx,
                      T* sums) {
  if (s.channels_last || s.spatial == 1) {
    for (int64_t i = 0; i < s.spatial; ++i) {
      const int64_t at = (p.row * s.spatial + i) * s.channels + p.first;
      for_vectors<T>(p.n, [&](int64_t c, int64_t n) {
        const Vec<T> g = load_first(dy + at + c, n);
        if (kSums) store(sums + c, load(sums + c) + g * load_first(x + at + c, n));
        if (dx) store_first(dx + at + c, g * load(theta + c), n);
      });
    }
    return;
  }
  for (int64_t c = 0; c < p.n; ++c) {
    const int64_t at = (p.row * s.channels + p.first + c) * s.spatial;
    const Vec<T> factor = broadcast(theta[c]);
    Vec<T> sum[4] = {};
    int64_t which = 0;
    for_vectors<T>(s.spatial, [&](int64_t i, int64_t n) {
      const Vec<T> g = load_first(dy + at + i, n);
      if (kSums) sum[which++ & 3] += g * load_first(x + at + i, n);
      if (dx) store_first(dx + at + i, g * factor, n);
    });
    if (kSums) sums[c] += sum_lanes<T>((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}

// Tasks over `rows` rows (or blocks of rows) and the chunks of each.
template <class F>
void for_chunks(int64_t rows, int64_t channels, int64_t elements, const Parallel& parallel, F&& f) {
  const int64_t chunks = (channels + kGateChunk - 1) / kGateChunk, units = rows * chunks;
  const int64_t wanted = elements / kElementsPerTask + 1;
  int64_t tasks = wanted < parallel.threads ? wanted : parallel.threads;
  tasks = tasks < units ? tasks : units;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(units, 1, task, tasks);
    for (int64_t u = mine.begin; u < mine.end; ++u) {
      const int64_t first = u % chunks * kGateChunk, left = channels - first;
      f(Piece{u / chunks, first, left < kGateChunk ? left : kGateChunk});
    }
  });
}

template <class T>
void forward(const GateForward<T>& a, const Parallel& parallel) {
  const GateShape& s = a.shape;
  const int64_t elements = s.rows * s.channels * s.spatial;
  if (!elements) return;
  advise_huge_pages(a.y, size_t(elements) * sizeof(T));
  const Gates<T> gates(a.gates, s, false);
  for_chunks(s.rows, s.channels, elements, parallel, [&](const Piece& p) {
    GateRow<T> own;
    multiply(s, p, a.x, gates.of(p.row, p.first, own).theta, a.y);
  });
}

// The gradients of a block of rows, of one chunk of channels; the two rows of `partial` are the block's sums.
template <class T>
void block_backward(const GateBackward<T>& a, const Gates<T>& gates, Piece p, int64_t rows, T* partial) {
  const GateShape& s = a.shape;
  GateRow<T> own;
  alignas(64) T sums[kGateChunk], total[2][kGateChunk];
  for (int64_t c = 0; c < p.n; ++c) total[0][c] = total[1][c] = T(0);
  const int64_t begin = p.row * rows, end = begin + rows < s.rows ? begin + rows : s.rows;
  for (p.row = begin; p.row < end; ++p.row) {
    const GateRow<T>& row = gates.of(p.row, p.first, own);
    if (!a.d_location) {
      multiply_and_sum<T, false>(s, p, a.dy, a.x, row.theta, a.dx, sums);
      continue;
    }
    for (int64_t c = 0; c < kGateChunk; ++c) sums[c] = T(0);
    multiply_and_sum<T, true>(s, p, a.dy, a.x, row.theta, a.dx, sums);
    for (int64_t c = 0; c < p.n; ++c) total[0][c] += sums[c] * row.by_location[c];
    if (a.d_log_sigma2)
      for (int64_t c = 0; c < p.n; ++c) total[1][c] += sums[c] * row.by_log_sigma2[c];
  }
  if (!a.d_location) return;
  for (int64_t c = 0; c < p.n; ++c) {
    partial[p.first + c] = total[0][c];
    partial[s.channels + p.first + c] = total[1][c];
  }
}

// Blocks of rows are of fixed size and summed in order, so that gradients do not depend on the threads.
template <class T>
void backward(const GateBackward<T>& a, const Parallel& parallel) {
  const GateShape& s = a.shape;
  const int64_t elements = s.rows * s.channels * s.spatial;
  const int64_t rows = s.spatial > 0 && s.spatial < kElementsPerSum ? kElementsPerSum / s.spatial + 1 : 1;
  const int64_t blocks = elements ? (s.rows + rows - 1) / rows : 0;
  if (blocks && a.dx) advise_huge_pages(a.dx, size_t(elements) * sizeof(T));
  const Gates<T> gates(a.gates, s, a.d_location != nullptr);
  T* const partial = static_cast<T*>(
      scratch(Scratch::kTask, size_t(a.d_location ? blocks * 2 * s.channels : 0) * sizeof(T)));
  for_chunks(blocks, s.channels, elements, parallel,
             [&](const Piece& p) { block_backward(a, gates, p, rows, partial + p.row * 2 * s.channels); });
  if (!a.d_location) return;
  T* const to[2] = {a.d_location, a.d_log_sigma2};
  for (int which = 0; which < 2; ++which)
    for (int64_t first = 0; to[which] && first < s.channels; first += kGateChunk) {
      const int64_t n = s.channels - first < kGateChunk ? s.channels - first : kGateChunk;
      double total[kGateChunk] = {};
      for (int64_t b = 0; b < blocks; ++b) {
        const T* const part = partial + (b * 2 + which) * s.channels + first;
        for (int64_t c = 0; c < n; ++c) total[c] += double(part[c]);
      }
      for (int64_t c = 0; c < n; ++c) to[which][first + c] = T(total[c]);
    }
}

}  // namespace

void gate(const GateForward<float>& args, const Parallel& parallel) { forward(args, parallel); }
void gate(const GateForward<double>& args, const Parallel& parallel) { forward(args, parallel); }
void gate_backward(const GateBackward<float>& args, const Parallel& parallel) { backward(args, parallel); }
void gate_backward(const GateBackward<double>& args, const Parallel& parallel) { backward(args, parallel); }

}  // namespace VDK_ISA
}  // namespace vdk
