// Compressed rows (CSR), for training: forward, its transpose, and the product sampled at the nonzeros.
#include "csr.h"

namespace vdk {
namespace VDK_ISA {
namespace {

template <class T, class I>
Csr<T, I> matrix_of(const CsrArgs<T, I>& a) {
  return {a.out, a.in, int64_t(a.row_offsets[a.out]), a.values, a.col_indices, a.row_offsets};
}

// The same carving twice: to count, and to take.
template <class F>
void in_shared(const F& carve) {
  carve(Carver(scratch(Scratch::kShared, carve(Carver()))));
}

template <class T, class I>
void forward(const CsrArgs<T, I>& a, const Parallel& parallel) {
  const Csr<T, I> m = matrix_of(a);
  Carver counted;
  carve_shared<T>(a.in, a.out, counted);
  multiply(m, a.batch, a.x, a.bias, a.y, Carver(scratch(Scratch::kShared, counted.used())), parallel);
}

// dx = dy W: a product as that of the forward pass, by the matrix turned over.
template <class T, class I>
void gradient_of_x(const CsrArgs<T, I>& a, const Parallel& parallel) {
  const Csr<T, I> m = matrix_of(a);
  Turned<T, I> turned(m, parallel);
  Carver counted;
  turned.carve(counted, m);
  carve_shared<T>(a.out, a.in, counted);
  Carver shared(scratch(Scratch::kShared, counted.used()));
  turned.carve(shared, m);
  multiply(turned.of(m, parallel), a.batch, a.y, static_cast<const T*>(nullptr), a.dx, shared, parallel);
}

// dvalues of `n` nonzeros of one row, whose gradients over the batch are d: sums of products of vectors.
template <int n, class T, class I>
VDK_INLINE void sample(const T* x, const T* d, const I* index, int64_t lanes, T* dvalues) {
  const T* from[n];
  Vec<T> sum[n] = {};
  for (int j = 0; j < n; ++j) from[j] = x + int64_t(index[j]) * lanes;
  for (int64_t i = 0; i < lanes; i += kLanes<T>) {
    const Vec<T> g = load(d + i);
    for (int j = 0; j < n; ++j) sum[j] += load(from[j] + i) * g;
  }
  for (int j = 0; j < n; ++j) dvalues[j] = sum_lanes<T>(sum[j]);
}

// dvalues and dbias: sums over the batch, of x and dy transposed as a whole.
template <class T, class I>
void gradient_of_weight(const CsrArgs<T, I>& a, const Parallel& parallel) {
  constexpr int kAtOnce = 4;  // share a load of dy, and none waits for its own sum
  const int64_t vectors = (a.batch + kLanes<T> - 1) / kLanes<T>, lanes = vectors * kLanes<T>;
  T *x, *dy;
  in_shared([&](Carver carver) {
    x = carver.take<T>(a.in * lanes);
    dy = carver.take<T>(a.out * lanes);
    return carver.used();
  });
  const int64_t nnz = int64_t(a.row_offsets[a.out]), work = (nnz + a.in + a.out) * a.batch;
  const int64_t packing = task_count(work, vectors, parallel);
  parallel(packing, [&](int64_t task) {
    const Range mine = part_of(vectors, 1, task, packing);
    for (int64_t v = mine.begin; v < mine.end; ++v) {
      const int64_t row = v * kLanes<T>;
      to_columns<T>(a.x + row * a.in, a.in, a.batch - row, 0, a.in, x + row, lanes);
      to_columns<T>(a.y + row * a.out, a.out, a.batch - row, 0, a.out, dy + row, lanes);
    }
  });
  const int64_t tasks = task_count(work, a.out, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(a.out, 1, task, tasks);
    for (int64_t o = mine.begin; o < mine.end; ++o) {
      const T* const d = dy + o * lanes;
      const I end = a.row_offsets[o + 1];
      I k = a.row_offsets[o];
      for (; a.dvalues && k + kAtOnce <= end; k += kAtOnce)
        sample<kAtOnce>(x, d, a.col_indices + k, lanes, a.dvalues + k);
      for (; a.dvalues && k < end; ++k) sample<1>(x, d, a.col_indices + k, lanes, a.dvalues + k);
      if (!a.dbias) continue;
      Vec<T> sum{};
      for (int64_t i = 0; i < lanes; i += kLanes<T>) sum += load(d + i);
      a.dbias[o] = sum_lanes<T>(sum);
    }
  });
}

template <class T, class I>
void backward(const CsrArgs<T, I>& a, const Parallel& parallel) {
  if (a.dx) gradient_of_x(a, parallel);
  if (a.dvalues || a.dbias) gradient_of_weight(a, parallel);
}

}  // namespace

void spmm(const CsrArgs<float, int32_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<float, int64_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<double, int32_t>& a, const Parallel& p) { forward(a, p); }
void spmm(const CsrArgs<double, int64_t>& a, const Parallel& p) { forward(a, p); }
void spmm_backward(const CsrArgs<float, int32_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<float, int64_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<double, int32_t>& a, const Parallel& p) { backward(a, p); }
void spmm_backward(const CsrArgs<double, int64_t>& a, const Parallel& p) { backward(a, p); }

}  // namespace VDK_ISA
}  // namespace vdk
