// A convolution with a packed sparse weight, straight from the padded image.
#pragma once
#include "../common/isa.h"
#include "../common/parallel.h"
#include "../spmm/pack.h"

namespace vdk {

// Rows of outputs are computed in bands. For a band, a channel's plane holds the inputs that it reads,
// padding among them, one phase of the stride after the other, so that what neighbouring outputs read are
// neighbours.
struct ConvPlane {
  int64_t phases_h, phases_w;  // the stride
  int64_t rows, cols;          // of one phase
  int64_t band;                // rows of outputs
  int64_t size() const { return phases_h * phases_w * rows * cols; }
};

struct SparseConvArgs {
  const Pack& pack;
  ConvPlane plane;
  int64_t batch, channels, height, width;
  int64_t pad_h, pad_w;
  int64_t out_height, out_width;
  bool relu;
  const float* x;  // [batch, channels, height, width]
  float* y;        // [batch, pack.h.out, out_height, out_width]
};

// How many threads are worth their start: each with parts of the batch of its own (bands or grids of images),
// or all at one part after the other, each with some of its tiles.
struct Threads {
  int64_t apart, sharing;

  Threads(const SparseConvArgs& a, int64_t parts, int64_t most) {
    const auto within = [](int64_t n, int64_t limit) { return n < limit ? n : limit; };
    const int64_t image = a.pack.h.steps * kPackRows * a.out_height * a.plane.cols / 8 +
                          a.channels * a.height * a.width / 4;  // cycles, about
    const int64_t all = a.batch * image, some = parts > 0 ? parts : 1;
    apart = within(within(all / kThreadCycles + 1, most), some);
    sharing = within(all / some / kSharingCycles + 1, most);
    if (some >= most || sharing <= apart) sharing = 1;  // parts enough for the threads
  }
};

VDK_DECLARE_KERNEL(void sparse_conv2d(const SparseConvArgs& args, const Parallel& parallel);
                   // Of the first images, as many as are faster side by side in vectors; their number.
                   int64_t sparse_conv2d_images(const SparseConvArgs& args, const Parallel& parallel);
                   // Where the weight was packed for that; whether it was.
                   bool sparse_conv2d_cells(const SparseConvArgs& args, const Parallel& parallel);)
}  // namespace vdk
