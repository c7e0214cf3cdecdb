// The images of a batch in the lanes of vectors: whatever the window, every load is aligned, and no lane is
// idle where images are narrow. The packed weight is the same; what it reads is a vector a pixel.
#include "sparse_conv2d.h"

#include "../common/workspace.h"
#include "../spmm/panel.h"
#include "pieces.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int64_t kImages = kVector;
constexpr int64_t kStrip = 32;  // columns at most that are stored at a time: two cache lines an image
// Vectors of a band. Beyond L2 already: tiles are read from it often enough, and the fewer bands, the fewer
// rows are moved from one to the next.
constexpr int64_t kStaged = 23 << 10, kMostStaged = 26 << 10;

// Rows of a tile where rows have `width` outputs.
int64_t highest(int64_t width) {
  const int64_t high = kSums / power_of_two(kWidest, width);
  return high < kHighest ? high : kHighest;
}

// One band of a group of images.
struct Band {
  int64_t rows;    // of outputs, 0 where L2 would not hold what even one reads
  int64_t inputs;  // rows of a phase that they read

  explicit Band(const SparseConvArgs& a) {
    const ConvPlane& p = a.plane;
    const int64_t row = (a.channels + a.pack.h.blocks) * p.phases_h * p.phases_w * p.cols;
    const int64_t reach = p.rows - p.band, high = highest(a.out_width);
    const int64_t fit = kStaged / row - reach, most = kMostStaged / row - reach;
    rows = fit >= high ? fit / high * high : most < high ? most : high;  // whole tiles weigh more
    rows = rows < 0 ? 0 : rows < p.band ? rows : p.band;
    inputs = rows + reach;
  }
};

int64_t pieces_of(const SparseConvArgs& a) {
  const int64_t high = highest(a.out_width), wide = power_of_two(kSums / high, a.out_width);
  const int64_t reach_h = a.plane.rows - a.plane.band, reach_w = a.plane.cols - a.out_width;
  const int64_t phases = a.plane.phases_h * a.plane.phases_w;
  return pieces_of(a.pack.h, phases * (high + reach_h) * (wide + reach_w) * a.channels);
}

struct Buffers {
  float *staged, *sums;
  int32_t *places, *zeros;
};

size_t carve(const SparseConvArgs& a, const Band& band, Pieces& pieces, void* base, Buffers& b) {
  Carver c(base);
  b.sums = c.take<float>(a.pack.h.slice_rows * highest(a.out_width) * kStrip * kImages);
  pieces.carve(c);
  b.places = c.take<int32_t>(band.inputs * a.plane.phases_h * a.width);
  b.zeros = c.take<int32_t>(a.plane.size());
  b.staged = c.take<float>((a.channels + a.pack.h.blocks) * a.plane.size() * kImages);
  return c.used();
}

// Up to kImages images, and what is computed of them.
struct Group {
  const SparseConvArgs& a;
  Band band;
  const Pieces& pieces;
  Buffers own;
  const float* x;
  float* y;
  int64_t count;

  int64_t pixels() const { return a.out_height * a.out_width; }
};

// A square of floats, its rows `stride` apart, turned.
template <int n>
VDK_INLINE void turn(const float* from, int64_t stride, VecF (&r)[n]) {
  if constexpr (n == 8) {
    transpose_eight(from, stride, 8, r);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) r[i] = load(from + i * stride);
    transpose<float>(r);
  }
}
// A corner of one, the rest as zeros.
VDK_INLINE void turn_few(const float* from, int64_t stride, int64_t rows, int64_t n, VecF (&r)[kImages]) {
#pragma GCC unroll 16
  for (int i = 0; i < kImages; ++i) r[i] = i < rows ? load_first(from + i * stride, n) : VecF{};
  transpose<float>(r);
}

// n pixels of the images from x, a vector each, to their places in a channel's plane.
template <bool kFull>
VDK_INLINE void stage_pixels(const Group& g, const float* x, int64_t image, int64_t n, const int32_t* places,
                             float* plane) {
  VecF r[kImages];
  kFull ? turn(x, image, r) : turn_few(x, image, g.count, n, r);
#pragma GCC unroll 16
  for (int i = 0; i < kImages; ++i)
    if ((kFull || i < n) && places[i] >= 0) store(plane + int64_t(places[i]) * kImages, r[i]);
}

// The inputs of the band that begins with output row `top`, as the weights' indices read them; the first
// `kept` rows of each phase are there already.
void stage(const Group& g, int64_t top, int64_t kept) {
  const SparseConvArgs& a = g.a;
  const ConvPlane& p = a.plane;
  const int64_t above = (top + kept) * p.phases_h - a.pad_h,
                below = above + (g.band.inputs - kept) * p.phases_h;
  const int64_t first = above > 0 ? above : 0, last = below < a.height ? below : a.height;
  const int64_t n = last > first ? (last - first) * a.width : 0;
  for (int64_t i = 0; i < n; ++i) g.own.places[i] = -1;
  int64_t zeros = 0;
  for (int64_t ph = 0; ph < p.phases_h; ++ph)
    for (int64_t pw = 0; pw < p.phases_w; ++pw)
      for (int64_t r = kept; r < g.band.inputs; ++r)
        for (int64_t c = 0; c < p.cols; ++c) {
          const int64_t row = (top + r) * p.phases_h + ph - a.pad_h, col = c * p.phases_w + pw - a.pad_w;
          const int32_t place = int32_t(((ph * p.phases_w + pw) * p.rows + r) * p.cols + c);
          if (row >= first && row < last && col >= 0 && col < a.width)
            g.own.places[(row - first) * a.width + col] = place;
          else
            g.own.zeros[zeros++] = place;
        }
  const int64_t image = a.channels * a.height * a.width;
  for (int64_t block = 0; block < a.pack.h.blocks; ++block)
    for (int64_t c = a.pack.columns[block]; c < a.pack.columns[block + 1]; ++c) {
      float* const plane = g.own.staged + (c + block) * p.size() * kImages;
      for (int64_t i = 0; i < zeros; ++i) store(plane + int64_t(g.own.zeros[i]) * kImages, VecF{});
      const float* const x = g.x + (c * a.height + first) * a.width;
      int64_t i = 0;
      if (g.count == kImages)
        for (; i + kImages <= n; i += kImages)
          stage_pixels<true>(g, x + i, image, kImages, g.own.places + i, plane);
      for (; i < n; i += kImages) stage_pixels<false>(g, x + i, image, n - i, g.own.places + i, plane);
    }
}

// What the next band reads of this one's inputs.
void keep_rows(const Group& g) {
  const ConvPlane& p = g.a.plane;
  const int64_t kept = (g.band.inputs - g.band.rows) * p.cols * kImages, phases = p.phases_h * p.phases_w;
  for (int64_t block = 0; block < g.a.pack.h.blocks; ++block)
    for (int64_t c = g.a.pack.columns[block]; c < g.a.pack.columns[block + 1]; ++c)
      for (int64_t phase = 0; phase < phases; ++phase) {
        float* const to = g.own.staged + ((c + block) * p.size() + phase * p.rows * p.cols) * kImages;
        __builtin_memmove(to, to + g.band.rows * p.cols * kImages, size_t(kept) * sizeof(float));
      }
}

// n neighbouring pixels of an output channel, turned back.
template <bool kFull>
VDK_INLINE void unstage_pixels(const Group& g, const float* sums, int64_t image, int64_t n, float* y) {
  VecF r[kImages];
  kFull ? turn(sums, kImages, r) : turn_few(sums, kImages, n, kImages, r);
#pragma GCC unroll 16
  for (int i = 0; i < kImages; ++i) {
    VecF v = r[i];
    if (g.a.relu) v = v < 0 ? VecF{} : v;
    if (kFull)
      store(y + i * image, v);
    else if (i < g.count)
      store_first(y + i * image, v, n);
  }
}
__attribute__((noinline)) void unstage(const Group& g, const float* sums, int64_t n, float* y) {
  const int64_t image = g.a.pack.h.out * g.pixels();
  int64_t at = 0;
  if (g.count == kImages)
    for (; at + kImages <= n; at += kImages)
      unstage_pixels<true>(g, sums + at * kImages, image, kImages, y + at);
  for (; at < n; at += kImages) unstage_pixels<false>(g, sums + at * kImages, image, n - at, y + at);
}

// `high` rows of outputs from `row` of the band that begins with `top`, `width` columns from `col`.
void run_strip(const Group& g, int64_t top, int64_t row, int64_t high, int64_t col, int64_t width) {
  const SparseConvArgs& a = g.a;
  const PackHeader& h = a.pack.h;
  const int64_t in = a.plane.cols * kImages, out = width * kImages, channel = high * out;
  for (int64_t slice = 0; slice < h.slices; ++slice) {
    const int64_t begin = slice * h.slice_rows,
                  end = begin + h.slice_rows < h.out ? begin + h.slice_rows : h.out;
    for (int64_t c = 0; c < width;) {
      const int64_t wide = power_of_two(kWidest, width - c);
      const Tile t{g.own.staged + (row * a.plane.cols + col + c) * kImages, g.own.sums + c * kImages, in, out,
                   channel};
      multiply(g.pieces, t, slice, wide, high);
      c += wide;
    }
    const bool whole = width == a.out_width;  // rows are neighbours too
    for (int64_t o = begin; o < end; ++o) {
      const float* const sums = g.own.sums + (o - begin) * channel;
      float* const y = g.y + o * g.pixels() + (top + row) * a.out_width + col;
      if (whole)
        unstage(g, sums, high * width, y);
      else
        for (int64_t r = 0; r < high; ++r) unstage(g, sums + r * out, width, y + r * a.out_width);
    }
  }
}

void run_band(const Group& g, int64_t top) {
  const int64_t rows = g.a.out_height - top < g.band.rows ? g.a.out_height - top : g.band.rows;
  for (int64_t row = 0; row < rows;) {
    const int64_t high = power_of_two(highest(g.a.out_width), rows - row);
    for (int64_t col = 0; col < g.a.out_width; col += kStrip) {
      const int64_t left = g.a.out_width - col;
      run_strip(g, top, row, high, col, left < kStrip ? left : kStrip);
    }
    row += high;
  }
}

// Units [begin, end): bands of one group of images after the other.
void run_units(const SparseConvArgs& a, const Band& band, int64_t bands, int64_t images, int64_t begin,
               int64_t end) {
  Buffers own;
  Pieces pieces(a.pack, a.plane.size(), pieces_of(a));
  carve(a, band, pieces, scratch(Scratch::kTask, carve(a, band, pieces, nullptr, own)), own);
  pieces.prepare();
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit / bands * kImages, top = unit % bands * band.rows, left = images - first;
    const float* const x = a.x + first * a.channels * a.height * a.width;
    float* const y = a.y + first * a.pack.h.out * a.out_height * a.out_width;
    const Group g{a, band, pieces, own, x, y, left < kImages ? left : kImages};
    const bool goes_on = unit > begin && top > 0;
    if (goes_on) keep_rows(g);
    stage(g, top, goes_on ? band.inputs - band.rows : 0);
    run_band(g, top);
  }
}

// Images that are faster side by side: of those that do not fill a vector only as many as make up for lanes
// that idle, which are the more the less a row fills the vectors of the other kernel. Short vectors meet few
// loads that are not aligned, so they gain nothing where images are wide.
int64_t images_of(const SparseConvArgs& a) {
  if (kImages < 16 && a.out_width > 16) return 0;
  const int64_t idle = a.out_width < 4 ? 3 : a.out_width < 8 ? 2 : 1, left = a.batch % kImages;
  return left > kImages - idle * kImages / 4 ? a.batch : a.batch - left;
}

}  // namespace

int64_t sparse_conv2d_images(const SparseConvArgs& a, const Parallel& parallel) {
  const int64_t images = images_of(a);
  if (images == 0 || a.channels == 0) return 0;
  const Band band(a);
  if (band.rows == 0) return 0;
  const int64_t bands = (a.out_height + band.rows - 1) / band.rows;
  const int64_t units = (images + kImages - 1) / kImages * bands;
  const int64_t tasks = Threads(a, units, parallel.threads).apart;
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(units, 1, task, tasks);
    run_units(a, band, bands, images, mine.begin, mine.end);
  });
  return images;
}

}  // namespace VDK_ISA
}  // namespace vdk
