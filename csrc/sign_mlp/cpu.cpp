// A draw at a time, and with it its mirror image: the first layer's signs of some rows become words of bits,
// set where a sum is negative, and every further layer turns words into words by tables. No sign is taken of
// sums that could be wrong.
#include "../random/runs.h"
#include "first.h"
#include "head.h"
#include "tables.h"

namespace vdk {
namespace VDK_ISA {
namespace {

// sigma e of one draw; whole runs are written.
void draw_noise(const SignMlpArgs& a, int64_t seed, float* out) {
  const int64_t n = a.parameters();
  const NoiseGrid grid{uint64_t(seed), n};
  for (int64_t i = 0; i < n; i += kRunLength) {
    draw(grid, uint64_t(i / 4), out + i);
    for (int64_t j = i; j < i + kRunLength && j < n; j += kLanes<float>)
      store(out + j, load(out + j) * load_first(a.sigma + j, n - j));
  }
}

// What one candidate needs: the tables of its layers but the first, the signs of two layers.
struct Candidate {
  int16_t* tables;         // [depth - 1][blocks] as fill_tables makes them
  float* head;             // [words][kHeadEntries]
  uint32_t *signs, *next;  // [words][kRows]

  void carve(const SignMlpArgs& a, Carver& carver) {
    const int64_t words = blocks_of(a.width);
    tables = carver.take<int16_t>((a.depth - 1) * words * words * kEntries * kBlock);
    head = carver.take<float>(words * kHeadEntries);
    signs = carver.take<uint32_t>(kRows * words);
    next = carver.take<uint32_t>(kRows * words);
  }
};

// One draw's noise and candidates, mu + noise and mu - noise.
struct Draw {
  FirstDraw first;
  float* noise;
  uint32_t* near;  // [kRows]: sums next to 0
  Unsure* unsure;  // [kRows]
  Candidate candidates[2];

  size_t carve(const SignMlpArgs& a, void* base) {
    Carver carver(base);
    noise = carver.take<float>(a.parameters() + kRunLength);
    near = carver.take<uint32_t>(kRows);
    unsure = carver.take<Unsure>(kRows);
    first.noise = noise;
    first.carve(a, carver);
    for (Candidate& c : candidates) c.carve(a, carver);
    return carver.used();
  }

  SignWeights layer(const SignMlpArgs& a, int64_t index, int candidate) const {
    const int64_t n = a.width, at = index * (n * n + n);
    return {a.mu + at, noise + at, candidate ? -1.0f : 1.0f, n, index < a.depth ? n : 1};
  }
};

template <bool kMirrored, int kWords>
void first_signs(const SignMlpArgs& a, const FirstLayer& layer, const Draw& draw, Range rows) {
  const int64_t blocks = kWords ? kWords : blocks_of(a.width), count = rows.end - rows.begin;
  for (int64_t block = 0; block < blocks; ++block) {
    uint32_t* const plus = draw.candidates[0].signs + block * kRows;
    uint32_t* const minus = draw.candidates[1].signs + block * kRows;
    for (int64_t r = 0; r < count; r += kTogether)  // and some rows beyond
      draw.first.signs<kMirrored, kWords>(a, layer, rows.begin + r, block, plus + r, minus + r,
                                          draw.near + r);
    const Unsure* const end = list_unsure(draw.near, rows.begin, count, draw.unsure);
    draw.first.sum_again<kMirrored>(a, layer, rows.begin, block, draw.unsure, end, plus, minus);
  }
}

// From the first layer's signs.
template <int kWords>
float errors_of(const SignMlpArgs& a, const Draw& draw, int candidate, Range rows) {
  const int64_t words = blocks_of(a.width), count = rows.end - rows.begin;
  const Candidate& c = draw.candidates[candidate];
  uint32_t *in = c.signs, *out = c.next;
  const int16_t* tables = c.tables;
  for (int64_t index = 1; index < a.depth; ++index) {
    const SignWeights layer = draw.layer(a, index, candidate);
    for (int64_t block = 0; block < words; ++block, tables += words * kEntries * kBlock)
      look_up_rows<kWords>(layer, block, words, tables, count, in, out, draw.near, draw.unsure);
    uint32_t* const done = in;
    in = out;
    out = done;
  }
  return errors<kWords>(c.head, words, count, in, a.y + rows.begin);
}

void losses_of(const SignMlpArgs& a, const FirstLayer& layer, int64_t index, Draw& draw) {
  const int copies = a.antithetic ? 2 : 1;
  const int64_t words = blocks_of(a.width);
  draw_noise(a, a.seeds[index], draw.noise);
  draw.first.fill(a, layer);
  for (int c = 0; c < copies; ++c) {
    int16_t* tables = draw.candidates[c].tables;
    for (int64_t l = 1; l < a.depth; ++l)
      for (int64_t block = 0; block < words; ++block, tables += words * kEntries * kBlock)
        fill_tables(draw.layer(a, l, c), block, words, tables);
    fill_head(draw.layer(a, a.depth, c), words, draw.candidates[c].head);
  }
  double sums[2] = {};
  for (int64_t row = 0; row < a.rows; row += kRows) {
    const Range rows{row, row + kRows < a.rows ? row + kRows : a.rows};
    if (a.antithetic && words == 1)
      first_signs<true, 1>(a, layer, draw, rows);
    else if (a.antithetic)
      first_signs<true, 0>(a, layer, draw, rows);
    else
      first_signs<false, 0>(a, layer, draw, rows);
    for (int c = 0; c < copies; ++c)
      sums[c] += double(words == 1 ? errors_of<1>(a, draw, c, rows) : errors_of<0>(a, draw, c, rows));
  }
  for (int c = 0; c < copies; ++c) a.losses[index * copies + c] = float(sums[c] / double(a.rows));
}

constexpr int64_t kCandidates = 256;  // summed in float before they go to double

}  // namespace

void sign_mlp_losses(const SignMlpArgs& a, const Parallel& parallel) {
  const int64_t parts = (a.rows + kRows - 1) / kRows;
  FirstLayer layer;
  Extent* extents = nullptr;
  const auto carve = [&](void* base) {
    Carver carver(base);
    layer.carve(a, carver);
    extents = carver.take<Extent>(parts);
    return carver.used();
  };
  carve(scratch(Scratch::kShared, carve(nullptr)));
  layer.transpose(a);
  parallel(parts, [&](int64_t part) { extents[part] = layer.sum_rows(a, part_of(a.rows, 1, part, parts)); });
  Extent all = extents[0];
  for (int64_t part = 1; part < parts; ++part) all.include(extents[part]);
  layer.settle(a, all);
  parallel(parts, [&](int64_t part) { layer.round_rows(a, part_of(a.rows, 1, part, parts)); });
  const int64_t tasks = a.draws < 4 * parallel.threads ? a.draws : 4 * parallel.threads;
  parallel(tasks, [&](int64_t task) {
    Draw draw;
    draw.carve(a, scratch(Scratch::kTask, draw.carve(a, nullptr)));
    const Range mine = part_of(a.draws, 1, task, tasks);
    for (int64_t index = mine.begin; index < mine.end; ++index) losses_of(a, layer, index, draw);
  });
}

void noise_moments(const NoiseMomentsArgs& a, const Parallel& parallel) {
  const int64_t runs = (a.parameters + kRunLength - 1) / kRunLength;
  parallel(runs, [&](int64_t run) {
    double first[kRunLength] = {}, second[kRunLength] = {};
    for (int64_t c = 0; c < a.draws; c += kCandidates) {
      VecF s1[4] = {}, s2[4] = {};
      for (int64_t k = c; k < c + kCandidates && k < a.draws; ++k) {
        const NoiseGrid grid{uint64_t(a.seeds[k]), a.parameters};
        alignas(64) float e[kRunLength];
        draw(grid, uint64_t(run * kRunGroups), e);
        for (int v = 0; v < 4; ++v) {
          const VecF noise = load(e + v * kLanes<float>);
          s1[v] += noise * a.weights[k];
          s2[v] += (noise * noise - 1.0f) * a.square_weights[k];
        }
      }
      for (int i = 0; i < kRunLength; ++i) {
        first[i] += double(s1[i / kLanes<float>][i % kLanes<float>]);
        second[i] += double(s2[i / kLanes<float>][i % kLanes<float>]);
      }
    }
    const int64_t begin = run * kRunLength;
    for (int64_t i = begin; i < begin + kRunLength && i < a.parameters; ++i) {
      a.first[i] = float(first[i - begin]);
      a.second[i] = float(second[i - begin]);
    }
  });
}

}  // namespace VDK_ISA
}  // namespace vdk
