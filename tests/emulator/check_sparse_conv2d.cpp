#include "check.h"
#include "cuda/simt.cuh"
#include "sparse_conv2d/cuda.h"

namespace {

using vdk::cuda::Extent;

struct Problem {
  int64_t batch, channels, outputs, groups;
  Extent image, kernel, stride, padding, dilation;
};

// The stored weights of an output are those whose place in the window and output sum to no multiple of 3; of
// every fourth output all, of the next none.
bool is_stored(int64_t output, int64_t column) {
  return output % 4 == 0 || (output % 4 != 1 && (output + column) % 3 != 0);
}
float weight_of(int64_t output, int64_t column) { return float((output * 3 + column) % 5) - 2; }

template <class E>
void check_conv(const Problem& p, int multiprocessors) {
  vdk::cuda::SparseConvArgs<E> a{};
  a.batch = p.batch, a.channels = p.channels, a.outputs = p.outputs, a.groups = p.groups;
  a.image = p.image, a.kernel = p.kernel, a.stride = p.stride, a.padding = p.padding, a.dilation = p.dilation;
  a.out = {(p.image.h + 2 * p.padding.h - p.dilation.h * (p.kernel.h - 1) - 1) / p.stride.h + 1,
           (p.image.w + 2 * p.padding.w - p.dilation.w * (p.kernel.w - 1) - 1) / p.stride.w + 1};
  const int64_t per_group = p.channels / p.groups, columns = per_group * p.kernel.h * p.kernel.w;
  std::vector<float> values, bias(static_cast<size_t>(p.outputs), 1);
  std::vector<int32_t> cols, rows{0}, order;
  for (int64_t o = 0; o < p.outputs; ++o) {
    for (int64_t c = 0; c < columns; ++c)
      if (is_stored(o, c)) cols.push_back(int32_t(c)), values.push_back(weight_of(o, c));
    rows.push_back(int32_t(cols.size()));
    order.push_back(int32_t(p.outputs - 1 - o));
  }
  std::vector<E> x(size_t(p.batch * p.channels * p.image.h * p.image.w));
  for (size_t i = 0; i < x.size(); ++i) x[i] = vdk::round_to<E>(float(i * 5 % 9) - 4);
  std::vector<E> y(size_t(p.batch * p.outputs * a.out.h * a.out.w));
  a.nnz = int64_t(cols.size()), a.values = values.data(), a.cols = cols.data(), a.rows = rows.data();
  a.order = order.data(), a.bias = bias.data(), a.relu = true, a.x = x.data(), a.y = y.data();
  std::vector<E> workspace(vdk::cuda::sparse_conv_workspace(a) / sizeof(E));
  vdk::cuda::sparse_conv2d(a, multiprocessors, workspace.data(), nullptr);

  for (int64_t at = 0; at < int64_t(y.size()); ++at) {
    const int64_t w = at % a.out.w, h = at / a.out.w % a.out.h, o = at / (a.out.w * a.out.h) % p.outputs;
    const int64_t n = at / (a.out.w * a.out.h * p.outputs), group = o / (p.outputs / p.groups);
    double sum = 1;
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t tap = c % (p.kernel.h * p.kernel.w),
                    channel = group * per_group + c / (p.kernel.h * p.kernel.w);
      const int64_t in_h = h * p.stride.h - p.padding.h + tap / p.kernel.w * p.dilation.h;
      const int64_t in_w = w * p.stride.w - p.padding.w + tap % p.kernel.w * p.dilation.w;
      if (!is_stored(o, c) || in_h < 0 || in_h >= p.image.h || in_w < 0 || in_w >= p.image.w) continue;
      sum += double(weight_of(o, c)) *
             double(vdk::to_float(
                 x[size_t(((n * p.channels + channel) * p.image.h + in_h) * p.image.w + in_w)]));
    }
    emu::expect_close(vdk::to_float(y[size_t(at)]), std::fmax(sum, 0), sizeof(E) == 2 ? 4e-3 : 0, "y");
  }
}

// Several stages of a row's weights, groups, steps; one and four pixels a thread.
template <class E>
void check_convs() {
  for (const int multiprocessors : {1, 1000}) {
    check_conv<E>({2, 20, 5, 1, {7, 9}, {3, 3}, {1, 1}, {1, 1}, {1, 1}}, multiprocessors);
    check_conv<E>({1, 4, 6, 2, {11, 8}, {3, 2}, {2, 3}, {0, 2}, {2, 1}}, multiprocessors);
    check_conv<E>({3, 3, 2, 1, {14, 14}, {1, 1}, {1, 1}, {0, 0}, {1, 1}}, multiprocessors);
  }
}

}  // namespace

VDK_CHECK("sparse_conv2d float") { check_convs<float>(); }
VDK_CHECK("sparse_conv2d bfloat16") { check_convs<vdk::BFloat16>(); }
