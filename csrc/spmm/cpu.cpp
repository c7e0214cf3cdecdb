// Packed layers, one or a chain. Rows of the batch are taken in panels, transposed so that vectors run over
// the batch; one row alone is multiplied with eight rows of weights in the lanes of a vector, or with 64 by
// look-ups.
#include "../common/workspace.h"
#include "lookup.h"
#include "panel.h"
#include "spmm.h"

namespace vdk {
namespace VDK_ISA {
namespace {

struct Buffers {
  float *even, *odd, *decoded;  // inputs and outputs of layers take turns
};

// What a task needs for panels of `width`.
size_t carve(const PackedArgs& a, int64_t width, void* base, Buffers& b) {
  int64_t most = 0, longest = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    const PackHeader& h = a.layers[i].h;
    const int64_t in = h.in + h.blocks, planes = (planes_floats(h.in) + width - 1) / width;
    most = in > most ? in : most;
    most = planes > most ? planes : most;
    most = h.out > most ? h.out : most;
    longest = h.longest > longest ? h.longest : longest;
  }
  Carver c(base);
  b.even = c.take<float>(most * width);
  b.odd = c.take<float>(most * width);
  b.decoded = c.take<float>(longest * kPackRows);
  return c.used();
}
Buffers task_buffers(const PackedArgs& a, int64_t width) {
  Buffers b;
  carve(a, width, scratch(Scratch::kTask, carve(a, width, nullptr, b)), b);
  return b;
}

// Inputs as the kernels read them: block after block, each with a zero behind it.
template <class F>
VDK_INLINE void for_blocks(const Pack& k, F&& f) {
  for (int64_t block = 0; block < k.h.blocks; ++block)
    f(k.columns[block], k.columns[block + 1], k.columns[block] + block);
}
void spread(const Pack& k, const float* from, int64_t width, float* to) {
  for_blocks(k, [&](int64_t begin, int64_t end, int64_t at) {
    if (begin < end)
      __builtin_memcpy(to + at * width, from + begin * width, size_t((end - begin) * width) * sizeof(float));
    __builtin_memset(to + (at + end - begin) * width, 0, size_t(width) * sizeof(float));
  });
}

// Steps [j, end) of a group: eight rows of weights in the lanes, times what their indices read of one row.
template <Stored kStored>
VDK_INLINE void gather_steps(const Pack& k, int64_t j, int64_t end, const float* inputs, Vec8& sum) {
  const char* const x = reinterpret_cast<const char*>(inputs);
  // an index is a float's place in bytes; four of them come with one load
  const auto at = [&](uint64_t four, int i) __attribute__((always_inline)) {
    return *reinterpret_cast<const float*>(x + uint16_t(four >> 16 * i));
  };
  const auto step = [&](int64_t i, Vec8& to) __attribute__((always_inline)) {
    uint64_t low, high;
    __builtin_memcpy(&low, k.index + i * kPackRows, sizeof low);
    __builtin_memcpy(&high, k.index + i * kPackRows + 4, sizeof high);
    const Vec8 v = {at(low, 0),  at(low, 1),  at(low, 2),  at(low, 3),
                    at(high, 0), at(high, 1), at(high, 2), at(high, 3)};
    Vec8 w;
    decode_step(k.values, kStored, i, w);
    to += v * w;
  };
  Vec8 even{}, odd{};
  for (; j + 2 <= end; j += 2) {
    step(j, even);
    step(j + 1, odd);
  }
  if (j < end) step(j, even);
  sum = even + odd;
}

template <Stored kStored>
void multiply_row(const TileArgs& t, int64_t first_slice, int64_t last_slice) {
  const Pack& k = t.pack;
  for (int64_t block = 0; block < k.h.blocks; ++block) {
    const float* const x = t.x + k.columns[block] + block;
    const bool clamp = t.relu && block == k.h.blocks - 1;
    for (int64_t slice = first_slice; slice < last_slice; ++slice) {
      const int64_t segment = block * k.h.slices + slice, row0 = slice * k.h.slice_rows;
      for (int64_t g = k.first[segment]; g < k.first[segment + 1]; ++g) {
        Vec8 sum;
        gather_steps<kStored>(k, k.start[g], k.start[g + 1], x, sum);
        const uint16_t* const rows = k.rows + g * kPackRows;
        for (int r = 0; r < kPackRows && rows[r] != kNoRow; ++r) {
          const int64_t row = row0 + rows[r];
          const float scale = kStored == Stored::kInt8 ? k.scale[row] : 1;
          t.y[row] = sum[r] * scale + (block == 0 ? k.bias[row] : t.y[row]);
        }
      }
    }
    if (!clamp) continue;
    const int64_t end = last_slice * k.h.slice_rows < k.h.out ? last_slice * k.h.slice_rows : k.h.out;
    for (int64_t row = first_slice * k.h.slice_rows; row < end; ++row) t.y[row] = t.y[row] < 0 ? 0 : t.y[row];
  }
}

// A row x as `multiply_one` reads it.
void prepare_one(const Pack& k, const float* x, float* to) {
  if (takes_lookups(k))
    to_planes(x, k.h.in, reinterpret_cast<char*>(to));
  else
    spread(k, x, 1, to);
}

// What threads share: groups of look-ups, or slices.
int64_t parts_of_one(const Pack& k) { return takes_lookups(k) ? k.lookup_groups() : k.h.slices; }

void multiply_one(const TileArgs& t, int64_t begin, int64_t end) {
  const Pack& k = t.pack;
  if (takes_lookups(k))
    return multiply_lookups(k, reinterpret_cast<const char*>(t.x), t.relu, begin, end, t.y);
  if (k.h.stored == Stored::kFloat) return multiply_row<Stored::kFloat>(t, begin, end);
  if (k.h.stored == Stored::kBFloat16) return multiply_row<Stored::kBFloat16>(t, begin, end);
  multiply_row<Stored::kInt8>(t, begin, end);
}

// Panels take the widest of these that their rows fill by more than half.
constexpr int64_t kWidths[] = {
#if defined(__AVX512F__)
    32, 16, 8
#elif defined(__AVX2__)
    16, 8
#else
    8
#endif
};
constexpr int64_t kMostWidth = kWidths[0];
constexpr int64_t kChunk =
    4096 / kMostWidth;  // columns turned at a time: what a panel has of them stays in L1

int64_t panel_width(int64_t rows) {
  for (const int64_t width : kWidths)
    if (rows > width / 2 && rows > 8) return width;
  return 8;
}

// A tile of `width` columns.
void multiply(const TileArgs& t, int64_t width, int64_t begin, int64_t end) {
#if defined(__AVX512F__)
  if (width == 8) return multiply_tile<Vec8, 1, 8>(t, PanelLayout<8>{}, begin, end);
  if (width == 16) return multiply_tile<VecF, 1, 8>(t, PanelLayout<16>{}, begin, end);
  return multiply_tile<VecF, 2, 8>(t, PanelLayout<32>{}, begin, end);
#elif defined(__AVX2__)
  if (width == 8) return multiply_tile<VecF, 1, 8>(t, PanelLayout<8>{}, begin, end);
  return multiply_tile<VecF, 2, 4>(t, PanelLayout<16>{}, begin, end);
#else
  (void)width;  // there is one
  return multiply_tile<VecF, 2, 4>(t, PanelLayout<8>{}, begin, end);
#endif
}

void panel_of(const Pack& k, const float* x, int64_t rows, int64_t width, int64_t block0, int64_t block1,
              float* panel) {
  for (int64_t block = block0; block < block1; ++block) {
    const int64_t begin = k.columns[block], end = k.columns[block + 1];
    float* const to = panel + (begin + block) * width;
    for (int64_t c = begin; c < end; c += kChunk) {  // so that lines are written once
      const int64_t last = c + kChunk < end ? c + kChunk : end;
      const auto turn = [&](auto lanes, int64_t at) __attribute__((always_inline)) {
        rows_to_panel<decltype(lanes)>(x + at * k.h.in, k.h.in, rows - at, c, last,
                                       to + (c - begin) * width + at, width);
      };
      int64_t at = 0;
#if defined(__AVX512F__)
      for (; at + 16 <= width; at += 16) turn(VecF{}, at);
#endif
      for (; at < width; at += 8) turn(Vec8{}, at);
    }
    __builtin_memset(to + (end - begin) * width, 0, size_t(width) * sizeof(float));
  }
}

void rows_of(const Pack& k, const float* panel, int64_t width, int64_t begin, int64_t end, float* y,
             int64_t rows) {
  for (int64_t c = begin; c < end; c += kChunk)
    for (int64_t at = 0; at < rows; at += 8)
      panel_to_rows(panel + at, width, c, c + kChunk < end ? c + kChunk : end, y + at * k.h.out, k.h.out,
                    rows - at);
}

// All layers for one row.
void run_row(const PackedArgs& a, const float* x, float* y, const Buffers& b) {
  for (int64_t i = 0; i < a.count; ++i) {
    const Pack& k = a.layers[i];
    prepare_one(k, x, b.odd);
    float* const to = i + 1 == a.count ? y : b.even;
    multiply_one({k, b.odd, 1, to, b.decoded, a.relu[i]}, 0, parts_of_one(k));
    x = to;
  }
}

// All layers for rows [begin, end) of the batch, by this task alone; `singly`: one row after the other.
void run_rows(const PackedArgs& a, bool singly, int64_t begin, int64_t end) {
  const Pack &head = a.layers[0], &tail = a.layers[a.count - 1];
  const Buffers b = task_buffers(a, kMostWidth);
  for (int64_t row = begin; row < end;) {
    const int64_t width = singly ? 1 : panel_width(end - row), rows = end - row < width ? end - row : width;
    const float* const x = a.x + row * head.h.in;
    float* const y = a.y + row * tail.h.out;
    row += rows;
    if (width == 1) {
      run_row(a, x, y, b);
      continue;
    }
    float *in = b.even, *out = b.odd;
    panel_of(head, x, rows, width, 0, head.h.blocks, in);
    for (int64_t i = 0; i < a.count; ++i) {
      const Pack& k = a.layers[i];
      if (i > 0) {
        spread(k, in, width, out);
        float* const spread_out = out;
        out = in;
        in = spread_out;
      }
      multiply({k, in, width, out, b.decoded, a.relu[i]}, width, 0, k.h.slices);
      float* const done = out;
      out = in;
      in = done;
    }
    rows_of(tail, in, width, 0, tail.h.out, y, rows);
  }
}

// One layer, one row after the other, the matrix shared among threads.
void run_row_apart(const PackedArgs& a, int64_t tasks, const Parallel& parallel) {
  const Pack& k = a.layers[0];
  Buffers shared;
  carve(a, 1, scratch(Scratch::kShared, carve(a, 1, nullptr, shared)), shared);
  for (int64_t row = 0; row < a.batch; ++row) {
    prepare_one(k, a.x + row * k.h.in, shared.odd);
    parallel(tasks, [&](int64_t task) {
      const Range mine = part_of(parts_of_one(k), 1, task, tasks);
      multiply_one({k, shared.odd, 1, a.y + row * k.h.out, nullptr, a.relu[0]}, mine.begin, mine.end);
    });
  }
}

// One layer, one panel, the matrix shared among threads.
void run_slices(const PackedArgs& a, int64_t width, int64_t tasks, const Parallel& parallel) {
  const Pack& k = a.layers[0];
  Buffers shared;
  carve(a, width, scratch(Scratch::kShared, carve(a, width, nullptr, shared)), shared);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(k.h.blocks, 1, task, tasks);
    panel_of(k, a.x, a.batch, width, mine.begin, mine.end, shared.even);
  });
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(k.h.slices, 1, task, tasks);
    multiply({k, shared.even, width, shared.odd, task_buffers(a, 1).decoded, a.relu[0]}, width, mine.begin,
             mine.end);
    const int64_t begin = mine.begin * k.h.slice_rows, end = mine.end * k.h.slice_rows;
    rows_of(k, shared.odd, width, begin, end < k.h.out ? end : k.h.out, a.y, a.batch);
  });
}

// Cycles, about, of a row alone: a pair of steps of look-ups is 640 bytes, which L3 brings in 28.
int64_t cycles_alone(const Pack& k) {
  return takes_lookups(k) ? (k.h.pairs > 1600 ? 28 : 20) * k.h.pairs : 6 * k.h.steps;
}

// Whether rows are faster one after the other than as a panel of eight: up to four by look-ups. It depends on
// the whole batch, so that results do not depend on threads.
bool one_by_one(const PackedArgs& a) {
  int64_t alone = 0, panel = 0;
  for (int64_t i = 0; i < a.count; ++i) {
    alone += cycles_alone(a.layers[i]);
    panel += 7 * a.layers[i].h.steps;
  }
  return a.batch == 1 || (a.batch < 8 && a.batch * alone < panel);
}

}  // namespace

void spmm_packed(const PackedArgs& a, const Parallel& parallel) {
  const Pack& head = a.layers[0];
  const bool singly = one_by_one(a);
  int64_t cycles = (a.layers[0].h.in + a.layers[a.count - 1].h.out) / 2;
  for (int64_t i = 0; i < a.count; ++i)
    cycles += singly ? cycles_alone(a.layers[i]) : 2 * a.layers[i].h.steps;
  const int64_t width = panel_width(a.batch);
  const bool panel = a.count == 1 && !singly && a.batch <= width;
  int64_t tasks = a.batch * cycles / (panel ? kSharingCycles : kThreadCycles) + 1;
  tasks = tasks < parallel.threads ? tasks : parallel.threads;
  if (tasks == 1) return run_rows(a, singly, 0, a.batch);
  if (a.count == 1 && singly && parts_of_one(head) >= tasks) return run_row_apart(a, tasks, parallel);
  if (panel && head.h.slices >= tasks) return run_slices(a, width, tasks, parallel);
  parallel(tasks, [&](int64_t task) {
    const Range mine = part_of(a.batch, a.batch < 8 * tasks ? 1 : 8, task, tasks);
    run_rows(a, singly, mine.begin, mine.end);
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
