// Max pooling of planes for inference: values alone, no places.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"

namespace vdk {

struct PoolAxis {
  int64_t in, out, kernel, stride, pad, dilation;

  int64_t reach() const { return (kernel - 1) * dilation; }
  // Outputs [begin, end) have windows that lie in the image.
  Range inside() const {
    const int64_t begin = (pad + stride - 1) / stride, last = in - 1 - reach() + pad;
    const int64_t end = last < 0 ? 0 : last / stride + 1;
    const int64_t first = begin < out ? begin : out;
    return {first, end < first ? first : end < out ? end : out};
  }
  // The taps [begin, end) of an output that lie in the image; the first reads `at(output, begin)`.
  Range taps(int64_t output) const {
    const int64_t first = output * stride - pad, left = in - first;
    const int64_t begin = first < 0 ? (dilation - 1 - first) / dilation : 0;
    const int64_t end = left <= 0 ? 0 : (left + dilation - 1) / dilation;
    return {begin, end < kernel ? end : kernel};
  }
  int64_t at(int64_t output, int64_t tap) const { return output * stride - pad + tap * dilation; }
};

struct MaxPoolArgs {
  int64_t planes;
  PoolAxis h, w;
  float least;     // what an output is at least: 0 with a ReLU behind it, else -infinity
  const float* x;  // [planes, h.in, w.in]
  float* y;        // [planes, h.out, w.out]
};

VDK_DECLARE_KERNEL(void max_pool2d(const MaxPoolArgs& args, const Parallel& parallel);)

}  // namespace vdk
