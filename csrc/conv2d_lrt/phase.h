// What a strided convolution's input gradient falls into.
#pragma once
#include <cstdint>

namespace vdk {
namespace VDK_ISA {

// Along one dimension: the taps that reach inputs with remainder `rest` of the stride, and from where.
struct Phase {
  int64_t first_tap, tap_step, taps;  // of the kernel
  int64_t grid, first, source_step;   // inputs with that remainder; their outputs

  Phase(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, int64_t rest)
      : first_tap(0),
        tap_step(1),
        taps(0),
        grid((size - rest + stride - 1) / stride),
        first(0),
        source_step(0) {
    const auto hits = [&](int64_t tap) { return (rest + pad - tap * dilation) % stride == 0; };
    while (first_tap < kernel && !hits(first_tap)) ++first_tap;
    if (first_tap == kernel) return;
    while (tap_step < stride && tap_step * dilation % stride != 0) ++tap_step;
    taps = (kernel - first_tap + tap_step - 1) / tap_step;
    first = (rest + pad - first_tap * dilation) / stride;
    source_step = -(tap_step * dilation / stride);
  }
};

}  // namespace VDK_ISA
}  // namespace vdk
