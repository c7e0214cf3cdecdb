#include "check.h"
#include "cuda/simt.cuh"
#include "random/philox.h"
#include "weight_noise/cuda.h"

namespace {

const int64_t kSeed = 77;

double noise_of(int64_t row, int64_t col, int64_t cols) {
  const uint64_t counter = uint64_t(row * ((cols + 3) / 4) + col / 4);
  uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  double z[4];
  vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
  vdk::box_muller_f64(words, z);
  return z[col % 4];
}

// Weights and gradients with a parameter for each of log_rows x log_cols.
template <class T>
void check_weight_noise(int64_t rows, int64_t cols, int64_t log_rows, int64_t log_cols, bool is_alpha,
                        double tolerance) {
  const size_t n = size_t(rows * cols), n_log = size_t(log_rows * log_cols);
  const bool own = n == n_log;
  std::vector<T> mu(n), grad(n), log(n_log), out(n), dmu(n), dlog(n_log);
  std::vector<T> workspace(size_t(vdk::cuda::weight_noise_workspace(rows, cols, log_rows, log_cols)));
  for (size_t i = 0; i < n; ++i)
    mu[i] = T(0.25 * double(i % 9) - 1), grad[i] = T(0.5 - 0.125 * double(i % 7));
  for (size_t i = 0; i < n_log; ++i) log[i] = T(-0.5 * double(i % 5));
  vdk::cuda::WeightNoiseArgs<T> args{mu.data(), log.data(), nullptr,  out.data(), rows,
                                     cols,      log_rows,   log_cols, is_alpha,   &kSeed};
  vdk::cuda::weight_noise(args, nullptr);
  args.grad = grad.data();
  args.out = is_alpha ? dmu.data() : nullptr;
  (own ? args.dlog : args.dlog_sums) = dlog.data();
  args.workspace = workspace.data();
  vdk::cuda::weight_noise(args, nullptr);
  std::vector<double> expected(n_log);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t col = 0; col < cols; ++col) {
      const size_t i = size_t(row * cols + col);
      const size_t at = size_t((log_rows == 1 ? 0 : row) * log_cols + (log_cols == 1 ? 0 : col));
      const double noise = std::exp(0.5 * double(log[at])) * noise_of(row, col, cols);
      const double factor = is_alpha ? double(mu[i]) : 1;
      emu::expect_close(double(out[i]), double(mu[i]) + factor * noise, tolerance, "out");
      if (is_alpha) emu::expect_close(double(dmu[i]), double(grad[i]) * (1 + noise), tolerance, "dmu");
      expected[at] += 0.5 * double(grad[i]) * factor * noise;
    }
  for (size_t i = 0; i < n_log; ++i) emu::expect_close(double(dlog[i]), expected[i], 10 * tolerance, "dlog");
}

}  // namespace

VDK_CHECK("weight_noise own") {
  check_weight_noise<float>(3, 700, 3, 700, false, 1e-5);
  check_weight_noise<float>(5, 37, 5, 37, true, 1e-5);
  check_weight_noise<double>(5, 37, 5, 37, false, 1e-12);
}
VDK_CHECK("weight_noise rows") {
  check_weight_noise<float>(9, 2100, 9, 1, true, 1e-5);
  check_weight_noise<float>(20, 5, 1, 1, true, 1e-5);
}
VDK_CHECK("weight_noise columns") {
  check_weight_noise<float>(70, 37, 1, 37, true, 1e-5);
  check_weight_noise<double>(9, 64, 1, 64, true, 1e-12);
}
