#include <algorithm>

#include "check.h"
#include "cuda/simt.cuh"
#include "random/philox.h"
#include "weight_mask/cuda.h"

namespace {

using vdk::Granularity;

const int64_t kSeed = 77;

uint32_t word_of(int64_t row, int64_t col, int64_t cols) {
  const uint64_t counter = uint64_t(row * ((cols + 3) / 4) + col / 4);
  uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
  return words[col % 4];
}

// gamma = 1 / 2 and alpha = 1 / 4 of weights with many ties: thresholds, weights and gradients, exactly.
template <class T>
void check_weight_mask(int64_t rows, int64_t cols, Granularity granularity) {
  const size_t n = size_t(rows * cols);
  const double gamma = 0.5, alpha = 0.25;
  std::vector<T> w(n), grad(n), out(n), masked(n), threshold(size_t(rows), T(NAN));
  for (size_t i = 0; i < n; ++i) w[i] = T(0.25 * double(i * 7 % 97) - 12), grad[i] = T(1 + i % 5);
  const int64_t bytes = vdk::cuda::weight_mask_workspace(rows, cols, granularity, sizeof(T));
  std::vector<uint64_t> workspace(size_t(bytes) / 8 + 2);  // from a multiple of 16 on
  void* const aligned = workspace.data() + reinterpret_cast<uintptr_t>(workspace.data()) % 16 / 8;
  vdk::cuda::WeightMaskArgs<T> args{w.data(), rows,       cols,   granularity,
                                    &gamma,   &alpha,     &kSeed, threshold.data(),
                                    w.data(), out.data(), aligned};
  vdk::cuda::weight_mask(args, nullptr);
  args.gamma = nullptr;
  args.given = grad.data();
  args.out = masked.data();
  vdk::cuda::weight_mask(args, nullptr);

  std::vector<T> expected(static_cast<size_t>(rows)), sizes;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<T> rising;
    double norm = 0;
    for (int64_t col = 0; col < cols; ++col) {
      rising.push_back(std::fabs(w[size_t(row * cols + col)]));
      norm += double(rising.back()) * double(rising.back());
    }
    std::sort(rising.begin(), rising.end());
    expected[size_t(row)] = rising[size_t(cols / 2)];
    sizes.push_back(T(std::sqrt(norm)));
  }
  if (granularity != Granularity::kWeight) {
    std::vector<T> rising = sizes;
    std::sort(rising.begin(), rising.end());
    for (size_t row = 0; row < sizes.size(); ++row)
      expected[row] = sizes[row] < rising[size_t(rows / 2)] ? T(INFINITY) : T(0);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const T bound = expected[size_t(row)];
    if (threshold[size_t(row)] != bound) emu::expect_close(threshold[size_t(row)], bound, 0, "threshold");
    for (int64_t col = 0; col < cols; ++col) {
      const size_t i = size_t(row * cols + col);
      const uint32_t word =
          granularity == Granularity::kUnit ? word_of(0, row, rows) : word_of(row, col, cols);
      const bool gone = std::fabs(w[i]) < bound && word < 1u << 30;
      emu::expect_close(out[i], gone ? 0 : w[i], 0, "weight");
      emu::expect_close(masked[i], gone ? 0 : grad[i], 0, "gradient");
    }
  }
}

}  // namespace

VDK_CHECK("weight_mask warps") {
  check_weight_mask<float>(11, 37, Granularity::kWeight);
  check_weight_mask<float>(3, 600, Granularity::kWeight);
  check_weight_mask<double>(3, 300, Granularity::kWeight);
}
VDK_CHECK("weight_mask blocks") {
  check_weight_mask<float>(2, 1100, Granularity::kWeight);
  check_weight_mask<float>(1, 8200, Granularity::kWeight);
}
VDK_CHECK("weight_mask digits") { check_weight_mask<float>(2, 33000, Granularity::kWeight); }
VDK_CHECK("weight_mask units") {
  check_weight_mask<float>(41, 30, Granularity::kUnit);
  check_weight_mask<float>(41, 30, Granularity::kUnitElement);
  check_weight_mask<double>(5, 2100, Granularity::kUnit);
}
