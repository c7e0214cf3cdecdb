#include "check.h"
#include "cuda/simt.cuh"
#include "spmm/cuda.h"

namespace {

using vdk::cuda::CsrMatrix;

// Rows that are full, empty, of one nonzero and of some, by turns.
template <class V>
struct Weight {
  int64_t out, in;
  std::vector<V> values;
  std::vector<int32_t> cols, rows, order;

  Weight(int64_t out, int64_t in) : out(out), in(in), rows{0} {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t i = 0; i < in; ++i)
        if (o % 4 == 0 || (o % 4 == 1 && i == o % in) || (o % 4 == 2 && i * i % 7 < 3)) {
          cols.push_back(int32_t(i));
          values.push_back(vdk::round_to<V>(float((o + i) % 5) - 1));
        }
      rows.push_back(int32_t(cols.size()));
      order.push_back(int32_t(out - 1 - o));
    }
  }
  CsrMatrix<V> matrix() const {
    return {out, in, int64_t(values.size()), values.data(), cols.data(), rows.data()};
  }
};

template <class E>
std::vector<E> integers(int64_t n, int64_t step) {
  std::vector<E> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) x[size_t(i)] = vdk::round_to<E>(float(i * step % 7) - 3);
  return x;
}

template <class E, class V>
void check_product(int64_t batch, int64_t out, int64_t in) {
  const Weight<V> w(out, in);
  const std::vector<E> x = integers<E>(batch * in, 3);
  std::vector<float> bias(static_cast<size_t>(out), 2);
  std::vector<E> y(static_cast<size_t>(batch * out));
  const vdk::cuda::SpmmArgs<E, V> args{w.matrix(),  batch, w.order.data(), x.data(),
                                       bias.data(), true,  y.data()};
  std::vector<float> workspace(vdk::cuda::spmm_workspace(args) / 4);
  vdk::cuda::spmm(args, workspace.data(), nullptr);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t o = 0; o < out; ++o) {
      double sum = 2;
      for (int32_t k = w.rows[size_t(o)]; k < w.rows[size_t(o) + 1]; ++k)
        sum += double(vdk::to_float(w.values[size_t(k)])) *
               double(vdk::to_float(x[size_t(b * in + w.cols[size_t(k)])]));
      emu::expect_close(vdk::to_float(y[size_t(b * out + o)]), std::fmax(sum, 0), sizeof(E) == 2 ? 4e-3 : 0,
                        "y");
    }
}

// Both kernels, and each number of lanes that take the batch or the nonzeros.
template <class E, class V>
void check_products() {
  for (const int64_t batch : {1, 3, 33, 70, 130}) check_product<E, V>(batch, 6, 18);
  check_product<E, V>(1, 2, 300);
  check_product<E, V>(2, 2, 300);
  check_product<E, V>(260, 2, 140);
}

template <class E, class V>
void check_gradients(int64_t batch, int64_t out, int64_t in) {
  const Weight<V> w(out, in);
  const std::vector<E> x = integers<E>(batch * in, 3), dy = integers<E>(batch * out, 5);
  std::vector<E> dx(x.size());
  std::vector<float> dvalues(w.values.size()), dbias(static_cast<size_t>(out));
  const vdk::cuda::SpmmGradientArgs<E, V> args{w.matrix(), batch,          x.data(),    dy.data(),
                                               dx.data(),  dvalues.data(), dbias.data()};
  std::vector<float> workspace(vdk::cuda::spmm_workspace(args) / 4);
  vdk::cuda::spmm_backward(args, workspace.data(), nullptr);
  std::vector<double> exact(x.size(), 0);
  for (int64_t o = 0; o < out; ++o) {
    double sum = 0;
    for (int64_t b = 0; b < batch; ++b) sum += double(vdk::to_float(dy[size_t(b * out + o)]));
    emu::expect_close(dbias[size_t(o)], sum, 0, "dbias");
    for (int32_t k = w.rows[size_t(o)]; k < w.rows[size_t(o) + 1]; ++k) {
      double of_value = 0;
      for (int64_t b = 0; b < batch; ++b) {
        const double d = double(vdk::to_float(dy[size_t(b * out + o)]));
        const size_t i = size_t(b * in + w.cols[size_t(k)]);
        of_value += d * double(vdk::to_float(x[i]));
        exact[i] += d * double(vdk::to_float(w.values[size_t(k)]));
      }
      emu::expect_close(dvalues[size_t(k)], of_value, 0, "dvalues");
    }
  }
  for (size_t i = 0; i < dx.size(); ++i)
    emu::expect_close(vdk::to_float(dx[i]), exact[i], sizeof(E) == 2 ? 4e-3 : 0, "dx");
}

}  // namespace

VDK_CHECK("spmm float") { check_products<float, float>(); }
VDK_CHECK("spmm bfloat16, weights float") { check_products<vdk::BFloat16, float>(); }
VDK_CHECK("spmm bfloat16") { check_products<vdk::BFloat16, vdk::BFloat16>(); }
VDK_CHECK("spmm_backward float") {
  check_gradients<float, float>(3, 9, 20);
  check_gradients<float, float>(40, 9, 20);
}
VDK_CHECK("spmm_backward bfloat16") {
  check_gradients<vdk::BFloat16, vdk::BFloat16>(3, 9, 20);
  check_gradients<vdk::BFloat16, vdk::BFloat16>(40, 9, 20);
}
