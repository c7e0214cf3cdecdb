// The noise of a tensor in the order of its memory, drawn a tile at a time into a buffer that stays in cache.
#pragma once
#include "../random/normal.h"
#include "mul_noise.h"

namespace vdk {
namespace VDK_ISA {

// What is made of the random words: 0 or `factor`, or offset + factor e.
template <class T>
struct Recipe {
  bool bernoulli;
  uint32_t drop_below;
  T factor, offset;

  static Recipe fixed(Noise noise, double strength) {
    if (noise == Noise::kGaussian) return {false, 0, T(sqrt(strength)), T(1)};
    const double below = strength * 0x1p32;
    return {true, below < 0xFFFFFFFFu ? uint32_t(below) : 0xFFFFFFFFu, T(1 / (1 - strength)), T(0)};
  }
  static Recipe normal() { return {false, 0, T(1), T(0)}; }
};

// Of the groups base + lane * step: out[j] lane i is element j of group i.
VDK_INLINE void draw(const Recipe<float>& recipe, const NoiseGrid& grid, uint64_t base, uint64_t step,
                     VecF out[4]) {
  VecU words[4];
  words_of_groups(grid, base, step, words);
  if (recipe.bernoulli) {
    for (int j = 0; j < 4; ++j)
      out[j] = words[j] < VecU{} + recipe.drop_below ? VecF{} : broadcast(recipe.factor);
    return;
  }
  box_muller(words, out);
  for (int j = 0; j < 4; ++j) out[j] = out[j] * recipe.factor + recipe.offset;
}
VDK_INLINE void draw(const Recipe<double>& recipe, const NoiseGrid& grid, uint64_t base, uint64_t step,
                     VecD out[4]) {
  for (int i = 0; i < kLanes<double>; ++i) {
    const uint64_t counter = base + uint64_t(i) * step;
    uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
    double z[4];
    philox4x32(words, grid.k0, grid.k1);
    if (recipe.bernoulli) {
      for (int j = 0; j < 4; ++j) z[j] = words[j] < recipe.drop_below ? 0 : recipe.factor;
    } else {
      box_muller_f64(words, z);
      for (int j = 0; j < 4; ++j) z[j] = z[j] * recipe.factor + recipe.offset;
    }
    for (int j = 0; j < 4; ++j) out[j][i] = z[j];
  }
}

template <class T>
class NoiseStream {
 public:
  static constexpr int64_t kGroups = 256;  // of four elements, in a tile

  // `buffer` holds `room(layout)` elements.
  NoiseStream(const NoiseLayout& layout, const Recipe<T>& recipe, uint64_t seed, T* buffer)
      : layout_(layout), recipe_(recipe), grid_(seed, layout.cols), buffer_(buffer) {}

  static int64_t room(const NoiseLayout& layout) {
    const int64_t tile = 4 * (layout.channels > kGroups ? layout.channels : kGroups) + kLanes<T>;
    return layout.channels || layout.cols % 4 == 0 ? tile : 2 * tile;  // rows are drawn with their padding
  }

  // Forget the tile: what is at hand where then depends on the calls that follow alone.
  VDK_INLINE void restart() { first_ = last_ = 0; }

  // The noise of element i in memory order and of the n - 1 after it, never beyond `end`.
  VDK_INLINE const T* at(int64_t i, int64_t end, int64_t& n) {
    if (i < first_ || i >= last_) {
      if (layout_.channels)
        fill_channels_last(i, end);
      else if (layout_.cols % 4 == 0)
        fill_flat(i, end);
      else
        fill_ragged(i, end);
    }
    n = (last_ < end ? last_ : end) - i;
    return buffer_ + (i - first_);
  }

 private:
  void fill_groups(uint64_t group, int64_t count, T* out) {
    for (int64_t g = 0; g < count; g += kLanes<T>) {
      Vec<T> values[4];
      draw(recipe_, grid_, group + uint64_t(g), 1, values);
      weave(values, out + 4 * g);
    }
  }

  void fill_flat(int64_t i, int64_t end) {
    const int64_t group = i / 4, needed = (end + 3) / 4 - group, count = needed < kGroups ? needed : kGroups;
    fill_groups(uint64_t(group), count, buffer_);
    first_ = 4 * group;
    last_ = first_ + 4 * count;
  }

  void fill_ragged(int64_t i, int64_t end) {
    const int64_t cols = layout_.cols, groups = int64_t(grid_.groups), row = i / cols;
    int64_t in_row = (i - row * cols) / 4;
    const int64_t last_row = (end - 1) / cols;
    const int64_t group = row * groups + in_row;
    const int64_t needed = last_row * groups + (end - 1 - last_row * cols) / 4 + 1 - group;
    const int64_t count = needed < kGroups ? needed : kGroups;
    const T* from = buffer_ + 4 * kGroups + kLanes<T>;
    fill_groups(uint64_t(group), count, buffer_ + 4 * kGroups + kLanes<T>);
    first_ = last_ = row * cols + 4 * in_row;
    for (int64_t used = 0; used < count; in_row = 0) {
      const int64_t take = groups - in_row < count - used ? groups - in_row : count - used;
      const int64_t left = cols - 4 * in_row, n = left < 4 * take ? left : 4 * take;
      T* const to = buffer_ + (last_ - first_);
      for (int64_t k = 0; k < n; k += kLanes<T>) store(to + k, load(from + k));  // the next row covers excess
      from += 4 * take;
      used += take;
      last_ += n;
    }
  }

  void fill_channels_last(int64_t i, int64_t end) {
    const int64_t channels = layout_.channels, cols = layout_.cols, groups = int64_t(grid_.groups);
    const int64_t line_size = cols * channels, line = i / line_size;
    const int64_t image = line / layout_.height, h = line - image * layout_.height;
    const int64_t group = (i - line * line_size) / channels / 4;
    first_ = line * line_size + 4 * group * channels;
    int64_t count = channels < kGroups ? kGroups / channels : 1;
    const int64_t needed = (end - first_ + 4 * channels - 1) / (4 * channels);
    if (count > needed) count = needed;
    if (count > groups - group) count = groups - group;
    const int64_t width = 4 * count < cols - 4 * group ? 4 * count : cols - 4 * group;
    last_ = first_ + width * channels;
    const int64_t step = layout_.height * groups,
                  base = (image * channels * layout_.height + h) * groups + group;
    for (int64_t g = 0; g < count; ++g)
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        Vec<T> values[4];
        draw(recipe_, grid_, uint64_t(base + c * step + g), uint64_t(step), values);
        for (int64_t j = 0; j < 4 && 4 * g + j < width; ++j)
          store_first(buffer_ + (4 * g + j) * channels + c, values[j], channels - c);
      }
  }

  NoiseLayout layout_;
  Recipe<T> recipe_;
  NoiseGrid grid_;
  T* buffer_;
  int64_t first_ = 0, last_ = 0;  // elements whose noise is at hand
};

}  // namespace VDK_ISA
}  // namespace vdk
