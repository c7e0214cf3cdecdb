// Tiles of up to eight vectors of eight neighbours: a weight meets eight neighbouring inputs a vector,
// wherever in the kernel's window it stands, so no columns are ever laid out.
#include "sparse_conv2d.h"

#include <type_traits>

#include "../common/workspace.h"
#include "stage.h"

namespace vdk {
namespace VDK_ISA {
namespace {

// Vectors of a tile, side by side and one above the other: narrow images have high tiles. The more share a
// weight the less its loads weigh in; ops/sparse_conv2d/plane.py knows these shapes too.
#if defined(__AVX2__)
constexpr int64_t kVectors = 8, kWidest = 4;
constexpr int kSums = sizeof(VecF) / 4;  // registers that accumulate: 16 of 32, or 8 of 16
constexpr int64_t highest(int64_t wide) { return wide == 1 ? 8 : wide == 2 ? 4 : 2; }
#else
constexpr int64_t kVectors = 1, kWidest = 1;
constexpr int64_t highest(int64_t) { return 1; }
#endif

// The slices [begin, end) of the weight for a tile.
struct Slices {
  int64_t begin, end;
};

#if defined(__AVX2__)
template <int kWide, int kHigh>
void multiply_as(const TileArgs& t, int64_t in, int64_t out, int64_t channel, Slices s) {
  // two short vectors make a long one, where there are such
  constexpr bool kLong = kLanes<float> == 16 && kWide % 2 == 0;
  using V = std::conditional_t<kLong, VecF, Vec8>;
  constexpr int kAcross = kLong ? kWide / 2 : kWide;
  constexpr int kFit = kSums / (kAcross * kHigh), kRows = kFit < 1 ? 1 : (kFit > 4 ? 4 : kFit);
  multiply_tile<V, kAcross * kHigh, kRows>(t, ImageLayout<V, kAcross>{in, out, channel}, s.begin, s.end);
}
template <int kWide>
void multiply_high(const TileArgs& t, int64_t in, int64_t out, int64_t channel, Slices s, int64_t high) {
  if constexpr (kWide == 1)
    if (high == 8) return multiply_as<kWide, 8>(t, in, out, channel, s);
  if constexpr (kWide <= 2)
    if (high == 4) return multiply_as<kWide, 4>(t, in, out, channel, s);
  if (high == 2) return multiply_as<kWide, 2>(t, in, out, channel, s);
  multiply_as<kWide, 1>(t, in, out, channel, s);
}
#endif

// A tile of wide x high vectors, `in` and `out` floats from row to row; high is a power of two.
void multiply(const TileArgs& t, int64_t in, int64_t out, int64_t channel, Slices s, int64_t wide,
              int64_t high) {
#if defined(__AVX2__)
  if (wide == 4) return multiply_high<4>(t, in, out, channel, s, high);
  if (wide == 3) return multiply_high<3>(t, in, out, channel, s, high);
  if (wide == 2) return multiply_high<2>(t, in, out, channel, s, high);
  multiply_high<1>(t, in, out, channel, s, high);
#else
  (void)wide, (void)high;
  multiply_tile<Vec8, 1, 4>(t, ImageLayout<Vec8, 1>{in, out, channel}, s.begin, s.end);
#endif
}

// Channels [begin, end) of the band that begins with output row `top`, as the weights' indices read them.
void stage(const SparseConvArgs& a, const float* image, int64_t top, int64_t begin, int64_t end, float* to) {
  const ConvPlane& p = a.plane;
  const int64_t pixels = a.height * a.width;
  for (int64_t block = 0; block < a.pack.h.blocks; ++block) {
    const int64_t last = a.pack.columns[block + 1];
    for (int64_t ph = 0; ph < p.phases_h; ++ph)
      for (int64_t pw = 0; pw < p.phases_w; ++pw) {
        const Phase phase(a, {top, 0, p.rows, p.cols}, ph, pw);
        const int64_t offset = (ph * p.phases_w + pw) * p.rows * p.cols;
        for (int64_t c = a.pack.columns[block] > begin ? a.pack.columns[block] : begin; c < last && c < end;
             ++c) {
          if (c + 1 < end && ph + pw == 0) phase.fetch(image + (c + 1) * pixels);
          float* const plane = to + (c + block) * p.size() + offset;
          phase.pad(plane);
          phase.read(image + c * pixels, plane);
        }
      }
    if (last > begin && last <= end)  // the zero behind the block
      __builtin_memset(to + (last + block) * p.size(), 0, size_t(p.size()) * sizeof(float));
  }
}

struct Buffers {
  float *staged, *tile, *decoded;
};

size_t carve(const SparseConvArgs& a, void* base, Buffers& b) {
  Carver c(base);
  b.tile = c.take<float>(a.pack.h.out * kVectors * kEight);
  b.decoded = c.take<float>(a.pack.h.longest * kPackRows);
  const int64_t planes = a.channels + a.pack.h.blocks;
  b.staged = c.take<float>(planes * a.plane.size() + kEight);  // the last vector reads beyond
  return c.used();
}
Buffers buffers(const SparseConvArgs& a, Scratch which) {
  Buffers b;
  const size_t bytes = carve(a, nullptr, b);
  carve(a, scratch(which, bytes), b);
  return b;
}

// How a band of `rows` rows is cut into tiles.
struct Tiles {
  int64_t wide, high, across, count;  // vectors of a tile; tiles side by side, and in all

  Tiles(const SparseConvArgs& a, int64_t rows) {
    const int64_t vectors = (a.out_width + kEight - 1) / kEight;
    wide = vectors < kWidest ? vectors : kWidest;
    high = highest(wide);
    across = (vectors + wide - 1) / wide;
    count = across * ((rows + high - 1) / high);
  }
};

// `high` rows of outputs from `row` of a band, `cols` columns from `col`, of the channels of some slices.
void run_part(const SparseConvArgs& a, const float* staged, const Buffers& own, float* y, int64_t row,
              int64_t col, int64_t high, int64_t cols, Slices s) {
  const int64_t pixels = a.out_height * a.out_width, in = a.plane.cols, wide = (cols + kEight - 1) / kEight;
  float* const to = y + row * a.out_width + col;
  TileArgs t{a.pack, staged + row * in + col, a.plane.size(), to, own.decoded, a.relu};
  // what is added to once and again stays in a tile of its own: channels may lie where caches hold but few
  if (cols % kEight == 0 && a.pack.h.blocks == 1) return multiply(t, in, a.out_width, pixels, s, wide, high);
  t.y = own.tile;
  const int64_t width = wide * kEight;
  multiply(t, in, width, high * width, s, wide, high);
  const int64_t end = s.end * a.pack.h.slice_rows, last = end < a.pack.h.out ? end : a.pack.h.out;
  for (int64_t o = s.begin * a.pack.h.slice_rows; o < last; ++o)
    for (int64_t r = 0; r < high; ++r)
      copy_few(own.tile + (o * high + r) * width, to + o * pixels + r * a.out_width, cols);
}

// Units [begin, end) of a band of `rows` rows: tiles, each with one slice of the weight after the other.
void run_units(const SparseConvArgs& a, const float* staged, const Buffers& own, float* y, int64_t rows,
               int64_t begin, int64_t end) {
  const Tiles tiles(a, rows);
  const int64_t slices = a.pack.h.slices;
  for (int64_t unit = begin; unit < end;) {
    const int64_t tile = unit / slices, first = unit % slices;
    const int64_t last = slices - first < end - unit ? slices : first + end - unit;
    const int64_t col = tile % tiles.across * tiles.wide * kEight, left = a.out_width - col;
    const int64_t cols = left < tiles.wide * kEight ? left : tiles.wide * kEight;
    int64_t row = tile / tiles.across * tiles.high, high = tiles.high;
    const int64_t bottom = rows - row < high ? rows : row + high;
    for (; row < bottom; row += high) {
      while (high > bottom - row) high /= 2;  // the last rows, by powers of two
      run_part(a, staged, own, y, row, col, high, cols, {first, last});
    }
    unit += last - first;
  }
}

// Of image `image`, the outputs that begin with row `top`.
float* band_outputs(const SparseConvArgs& a, int64_t image, int64_t top) {
  return a.y + (image * a.pack.h.out * a.out_height + top) * a.out_width;
}

int64_t band_rows(const SparseConvArgs& a, int64_t top) {
  return a.out_height - top < a.plane.band ? a.out_height - top : a.plane.band;
}

// Bands of one image, each shared among threads: first its channels, then its tiles and the weight's slices.
void share_image(const SparseConvArgs& a, int64_t image, int64_t tasks, const Parallel& parallel) {
  const Buffers shared = buffers(a, Scratch::kShared);
  const float* const x = a.x + image * a.channels * a.height * a.width;
  for (int64_t top = 0; top < a.out_height; top += a.plane.band) {
    const int64_t rows = band_rows(a, top), units = Tiles(a, rows).count * a.pack.h.slices;
    parallel(tasks, [&](int64_t task) {
      const Range mine = part_of(a.channels, 1, task, tasks);
      stage(a, x, top, mine.begin, mine.end, shared.staged);
    });
    parallel(tasks, [&](int64_t task) {
      const Range mine = part_of(units, 1, task, tasks);
      run_units(a, shared.staged, buffers(a, Scratch::kTask), band_outputs(a, image, top), rows, mine.begin,
                mine.end);
    });
  }
}

void run_band(const SparseConvArgs& a, int64_t image, int64_t top) {
  const Buffers own = buffers(a, Scratch::kTask);
  stage(a, a.x + image * a.channels * a.height * a.width, top, 0, a.channels, own.staged);
  const int64_t rows = band_rows(a, top);
  run_units(a, own.staged, own, band_outputs(a, image, top), rows, 0, Tiles(a, rows).count * a.pack.h.slices);
}

}  // namespace

void sparse_conv2d(const SparseConvArgs& all, const Parallel& parallel) {
  const int64_t done = sparse_conv2d_images(all, parallel);
  if (done == all.batch) return;
  SparseConvArgs a = all;
  a.batch -= done;
  a.x += done * a.channels * a.height * a.width;
  a.y += done * a.pack.h.out * a.out_height * a.out_width;
  if (sparse_conv2d_cells(a, parallel)) return;
  const int64_t bands = (a.out_height + a.plane.band - 1) / a.plane.band, units = a.batch * bands;
  const Threads threads(a, units, parallel.threads);
  if (threads.sharing > 1) {
    for (int64_t image = 0; image < a.batch; ++image) share_image(a, image, threads.sharing, parallel);
    return;
  }
  parallel(threads.apart, [&](int64_t task) {
    const Range mine = part_of(units, 1, task, threads.apart);
    for (int64_t unit = mine.begin; unit < mine.end; ++unit)
      run_band(a, unit / bands, unit % bands * a.plane.band);
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
