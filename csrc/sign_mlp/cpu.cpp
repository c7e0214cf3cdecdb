// Rows of the batch lie in lanes. The first layer multiplies floats. What follows a sign is a sum of signs
// times weights: inputs are taken in groups of as many as index a vector's lanes, whose sums, all of them,
// fill a table in a register, and a permutation looks up a lane's sum by its signs. A draw and its mirror
// image share the first layer: the net's own sums are kept, and those of the noise added and subtracted.
#include "sign_mlp.h"

#include "../common/workspace.h"
#include "../random/runs.h"

namespace vdk {
namespace VDK_ISA {
namespace {

constexpr int kL = kLanes<float>;
constexpr int kBits = kL == 16 ? 4 : kL == 8 ? 3 : 2;  // inputs of a table
constexpr int kSets = 4;                               // vectors of rows at a time
constexpr int kRows = kSets * kL;
constexpr int kOutputs = 4;  // of the first layer at a time

VDK_INLINE VecF look_up(VecF table, VecI index) {
#if defined(__AVX512F__)
  return (VecF)_mm512_permutexvar_ps((__m512i)index, (__m512)table);
#elif defined(__AVX2__)
  return (VecF)_mm256_permutevar8x32_ps((__m256)table, (__m256i)index);
#else
  VecF r;
  for (int i = 0; i < kL; ++i) r[i] = table[index[i]];
  return r;
#endif
}

VDK_INLINE int64_t groups_of(int64_t width) { return (width + kBits - 1) / kBits; }

// sigma e of one draw; whole runs are written.
void draw_noise(const SignMlpArgs& a, int64_t seed, float* out) {
  const int64_t n = a.parameters();
  const NoiseGrid grid{uint64_t(seed), n};
  for (int64_t i = 0; i < n; i += kRunLength) {
    draw(grid, uint64_t(i / 4), out + i);
    for (int64_t j = i; j < i + kRunLength && j < n; j += kL)
      store(out + j, load(out + j) * load_first(a.sigma + j, n - j));
  }
}

// The tables of one output, [groups][kL]: entry m is the sum of the weights, + where m has a bit and else -.
void tabulate(const float* w, float bias, int64_t width, float* tables) {
  for (int64_t g = 0; g < groups_of(width); ++g)
    for (int m = 0; m < kL; ++m) {
      float sum = g ? 0 : bias;
      for (int k = 0; k < kBits && g * kBits + k < width; ++k) {
        const float v = w[g * kBits + k];
        sum += m >> k & 1 ? v : -v;
      }
      tables[g * kL + m] = sum;
    }
}

// Sums of one output for kSets vectors of rows.
VDK_INLINE void sum_up(const float* tables, const VecI (*index)[kSets], int64_t groups, VecF (&sums)[kSets]) {
#pragma GCC unroll 16
  for (int s = 0; s < kSets; ++s) sums[s] = VecF{};
  for (int64_t g = 0; g < groups; ++g) {
    const VecF table = load(tables + g * kL);
#pragma GCC unroll 16
    for (int s = 0; s < kSets; ++s) sums[s] += look_up(table, index[g][s]);
  }
}

// Note output o's signs in the index of its group.
VDK_INLINE void note(const VecF (&sums)[kSets], int64_t o, VecI (*index)[kSets]) {
  const int bit = 1 << o % kBits;
#pragma GCC unroll 16
  for (int s = 0; s < kSets; ++s) {
    const VecI set = (VecI)(sums[s] >= VecF{}) & bit;
    index[o / kBits][s] = o % kBits ? index[o / kBits][s] | set : set;
  }
}

VDK_INLINE VecF lanes_of(const float* p, int64_t left) {
  return left >= kL ? load(p) : left > 0 ? load_first(p, left) : VecF{};
}

// Sums of kCount outputs of the first layer for rows [row, row + kRows), of the weights at `w`.
template <int kCount>
VDK_INLINE void first_sums(const SignMlpArgs& a, const float* w, int64_t row, int64_t o,
                           VecF (&sums)[kCount][kSets]) {
  const int64_t left = a.rows - row;
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 16
    for (int s = 0; s < kSets; ++s) sums[i][s] = VecF{} + w[a.width * a.width + o + i];
  for (int64_t j = 0; j < a.width; ++j) {
    const float* const x = a.x + j * a.rows + row;
    VecF in[kSets];
    if (left >= kRows)
#pragma GCC unroll 16
      for (int s = 0; s < kSets; ++s) in[s] = load(x + s * kL);
    else
#pragma GCC unroll 16
      for (int s = 0; s < kSets; ++s) in[s] = lanes_of(x + s * kL, left - s * kL);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 16
      for (int s = 0; s < kSets; ++s) sums[i][s] += in[s] * w[(o + i) * a.width + j];
  }
}

// What one candidate needs: its tables, and the signs of two layers.
struct Copy {
  float* tables;
  VecI (*index)[kSets], (*next)[kSets];
};

// The net's own sums in the first layer: [rows / kRows][width][kSets] vectors.
void own_sums(const SignMlpArgs& a, int64_t row, int64_t o, float* own) {
  VecF sums[1][kSets];
  first_sums<1>(a, a.mu, row, o, sums);
#pragma GCC unroll 16
  for (int s = 0; s < kSets; ++s) store(own + (o * kSets + s) * kL, sums[0][s]);
}

template <int kCount>
VDK_INLINE void first_outputs(const SignMlpArgs& a, const float* noise, const float* own, int64_t row,
                              int64_t o, const Copy* copies) {
  VecF sums[kCount][kSets];
  first_sums<kCount>(a, noise, row, o, sums);
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    VecF z[kSets], mirrored[kSets];
#pragma GCC unroll 16
    for (int s = 0; s < kSets; ++s) {
      const VecF mean = load(own + ((o + i) * kSets + s) * kL);
      z[s] = mean + sums[i][s];
      mirrored[s] = mean - sums[i][s];
    }
    note(z, o + i, copies[0].index);
    if (a.antithetic) note(mirrored, o + i, copies[1].index);
  }
}

// Squared errors of rows [row, row + kRows), summed, from the first layer's signs.
float errors(const SignMlpArgs& a, int64_t row, Copy copy) {
  const int64_t left = a.rows - row, n = a.width, groups = groups_of(n);
  const float* tables = copy.tables;
  VecF sums[kSets];
  for (int64_t layer = 1; layer < a.depth; ++layer) {
    for (int64_t o = 0; o < n; ++o, tables += groups * kL) {
      sum_up(tables, copy.index, groups, sums);
      note(sums, o, copy.next);
    }
    VecI(*const done)[kSets] = copy.index;
    copy.index = copy.next;
    copy.next = done;
  }
  sum_up(tables, copy.index, groups, sums);
  VecF total{};
  for (int s = 0; s < kSets && left > s * kL; ++s) {
    const VecF e = sums[s] - load_first(a.y + row + s * kL, left - s * kL);
    VecF square = e * e;
    for (int i = int(left - s * kL); i < kL; ++i) square[i] = 0;
    total += square;
  }
  return sum_lanes<float>(total);
}

struct Room {
  float *noise, *w;
  Copy copies[2];

  size_t carve(const SignMlpArgs& a, void* base) {
    Carver carver(base);
    const int64_t groups = groups_of(a.width);
    noise = carver.take<float>(a.parameters() + kRunLength);
    w = carver.take<float>(a.width + 1);
    for (Copy& copy : copies) {
      copy.tables = carver.take<float>(((a.depth - 1) * a.width + 1) * groups * kL);
      copy.index = reinterpret_cast<VecI(*)[kSets]>(carver.take<float>(groups * kRows));
      copy.next = reinterpret_cast<VecI(*)[kSets]>(carver.take<float>(groups * kRows));
    }
    return carver.used();
  }
};

// The tables of all layers but the first, of mu + sign noise.
void fill_tables(const SignMlpArgs& a, float sign, const Room& room, float* tables) {
  const int64_t n = a.width, groups = groups_of(n);
  for (int64_t layer = 1, at = n * n + n; layer <= a.depth; ++layer) {
    const int64_t outputs = layer < a.depth ? n : 1, biases = at + outputs * n;
    for (int64_t o = 0; o < outputs; ++o, tables += groups * kL) {
      for (int64_t j = 0; j < n; ++j) room.w[j] = a.mu[at + o * n + j] + sign * room.noise[at + o * n + j];
      tabulate(room.w, a.mu[biases + o] + sign * room.noise[biases + o], n, tables);
    }
    at = biases + outputs;
  }
}

void losses_of(const SignMlpArgs& a, int64_t draw, const float* own, const Room& room) {
  const int copies = a.antithetic ? 2 : 1;
  draw_noise(a, a.seeds[draw], room.noise);
  for (int c = 0; c < copies; ++c) fill_tables(a, c ? -1.0f : 1.0f, room, room.copies[c].tables);
  double sums[2] = {};
  for (int64_t row = 0; row < a.rows; row += kRows, own += a.width * kRows) {
    int64_t o = 0;
    for (; o + kOutputs <= a.width; o += kOutputs)
      first_outputs<kOutputs>(a, room.noise, own, row, o, room.copies);
    for (; o < a.width; ++o) first_outputs<1>(a, room.noise, own, row, o, room.copies);
    for (int c = 0; c < copies; ++c) sums[c] += errors(a, row, room.copies[c]);
  }
  for (int c = 0; c < copies; ++c) a.losses[draw * copies + c] = float(sums[c] / double(a.rows));
}

constexpr int64_t kCandidates = 256;  // summed in float before they go to double

}  // namespace

void sign_mlp_losses(const SignMlpArgs& a, const Parallel& parallel) {
  const int64_t blocks = (a.rows + kRows - 1) / kRows;
  const size_t bytes = size_t(blocks * kRows * a.width) * sizeof(float);
  float* const own = static_cast<float*>(scratch(Scratch::kShared, bytes));
  parallel(blocks, [&](int64_t block) {
    for (int64_t o = 0; o < a.width; ++o) own_sums(a, block * kRows, o, own + block * a.width * kRows);
  });
  const int64_t tasks = a.draws < 4 * parallel.threads ? a.draws : 4 * parallel.threads;
  parallel(tasks, [&](int64_t task) {
    Room room;
    room.carve(a, scratch(Scratch::kTask, room.carve(a, nullptr)));
    const Range mine = part_of(a.draws, 1, task, tasks);
    for (int64_t draw = mine.begin; draw < mine.end; ++draw) losses_of(a, draw, own, room);
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
          const VecF noise = load(e + v * kL), weighted = noise * a.weights[k];
          s1[v] += weighted;
          s2[v] += weighted * noise - a.weights[k];
        }
      }
      for (int i = 0; i < kRunLength; ++i) {
        first[i] += double(s1[i / kL][i % kL]);
        second[i] += double(s2[i / kL][i % kL]);
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
