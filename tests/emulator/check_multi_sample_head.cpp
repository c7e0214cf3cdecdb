#include "check.h"
#include "cuda/simt.cuh"
#include "multi_sample_head/cuda.h"
#include "random/philox.h"

namespace {

using vdk::cuda::MultiSampleHead;
using vdk::cuda::Number;
using vdk::cuda::Precision;

const int64_t kSeed = 77, kIgnored = 1;

struct Shape {
  int64_t rows, features, classes, samples;
};

bool keeps(const Shape& s, int64_t row, int64_t col, int64_t sample) {
  const uint64_t counter = uint64_t((sample / 4 * s.rows + row) * ((s.features + 3) / 4) + col / 4);
  uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
  vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
  const int turn = int(8 * (sample % 4));
  const uint32_t word = words[col % 4];
  return (turn ? word << turn | word >> (32 - turn) : word) >= 0x80000000u;
}

// Losses and gradients of M passes with p = 1/2, against loops over the definition.
template <class E>
void check_head(Number type, Precision precision, const Shape& s, int multiprocessors, double tolerance) {
  const size_t n_h = size_t(s.rows * s.features), n_w = size_t(s.classes * s.features),
               n_k = size_t(s.classes), n_b = size_t(s.rows);
  std::vector<E> h(n_h), w(n_w);
  std::vector<float> bias(n_k), weights(n_k), dh(n_h, NAN), dw(n_w, NAN), db(n_k, NAN);
  std::vector<int64_t> target(n_b);
  float loss = NAN;
  // what half types hold
  const auto value = [](size_t i, int step, int count) { return 0.25f * float(int(i) * step % count) - 1; };
  for (size_t i = 0; i < n_h; ++i) h[i] = vdk::round_to<E>(value(i, 7, 9));
  for (size_t i = 0; i < n_w; ++i) w[i] = vdk::round_to<E>(0.25f * value(i, 5, 11));
  for (size_t i = 0; i < n_k; ++i) bias[i] = value(i, 1, 5), weights[i] = 0.5f + float(i % 3);
  for (size_t i = 0; i < n_b; ++i) target[i] = int64_t(i) * 3 % s.classes;
  const double smoothing = 0.25;
  MultiSampleHead args{};
  args.rows = s.rows;
  args.features = s.features;
  args.classes = s.classes;
  args.samples = s.samples;
  args.type = type;
  args.precision = precision;
  args.h = h.data();
  args.weight = w.data();
  args.bias = bias.data();
  args.target = target.data();
  args.class_weight = weights.data();
  args.seed = &kSeed;
  args.p = 0.5;
  args.ignore_index = kIgnored;
  args.smoothing = float(smoothing);
  args.mean = true;
  args.loss = &loss;
  args.dh = dh.data();
  args.dweight = dw.data();
  args.dbias = db.data();
  std::vector<float> workspace(vdk::cuda::multi_sample_head_workspace(args, multiprocessors) / 4, NAN);
  vdk::cuda::multi_sample_head(args, 90, multiprocessors, workspace.data(), nullptr);

  double norm = 0, all = 0, total = 0;
  for (const int64_t y : target)
    if (y != kIgnored) norm += weights[size_t(y)];
  for (const float x : weights) all += x;
  std::vector<double> by_h(n_h), by_w(n_w), by_b(n_k), z(n_k), x(size_t(s.features));
  for (int64_t b = 0; b < s.rows; ++b)
    for (int64_t i = 0; i < s.samples; ++i) {
      const int64_t y = target[size_t(b)];
      if (y == kIgnored) continue;
      double sum = 0, smooth = 0;
      for (int64_t d = 0; d < s.features; ++d)
        x[size_t(d)] = keeps(s, b, d, i) ? 2 * double(vdk::to_float(h[size_t(b * s.features + d)])) : 0;
      for (int64_t k = 0; k < s.classes; ++k) {
        z[size_t(k)] = bias[size_t(k)];
        for (int64_t d = 0; d < s.features; ++d)
          z[size_t(k)] += x[size_t(d)] * double(vdk::to_float(w[size_t(k * s.features + d)]));
        sum += std::exp(z[size_t(k)]);
        smooth += weights[size_t(k)] * z[size_t(k)];
      }
      const double sharp = (1 - smoothing) * weights[size_t(y)], even = smoothing / double(s.classes);
      const double lse = std::log(sum), scale = 1 / (norm * double(s.samples));
      total += scale * (sharp * (lse - z[size_t(y)]) + even * (all * lse - smooth));
      for (int64_t k = 0; k < s.classes; ++k) {
        const double g = scale * (std::exp(z[size_t(k)] - lse) * (sharp + even * all) -
                                  even * weights[size_t(k)] - (k == y ? sharp : 0));
        by_b[size_t(k)] += g;
        for (int64_t d = 0; d < s.features; ++d) {
          by_w[size_t(k * s.features + d)] += g * x[size_t(d)];
          if (keeps(s, b, d, i))
            by_h[size_t(b * s.features + d)] += 2 * g * double(vdk::to_float(w[size_t(k * s.features + d)]));
        }
      }
    }
  emu::expect_close(loss, total, tolerance, "loss");
  for (size_t i = 0; i < n_h; ++i) emu::expect_close(dh[i], by_h[i], tolerance, "dh");
  for (size_t i = 0; i < n_w; ++i) emu::expect_close(dw[i], by_w[i], tolerance, "dweight");
  for (size_t i = 0; i < n_k; ++i) emu::expect_close(db[i], by_b[i], tolerance, "dbias");
}

// A head of one tile, one of more, whose losses are a kernel's own, and slots in parts. Four, two and one
// samples of a word; chunks of 16 bytes and without.
template <class E>
void check_all(Number type, Precision precision, double tolerance) {
  check_head<E>(type, precision, {3, 24, 7, 4}, 1, tolerance);
  check_head<E>(type, precision, {5, 37, 150, 2}, 1, tolerance);
  check_head<E>(type, precision, {70, 8, 6, 3}, 16, tolerance);
  check_head<E>(type, precision, {2, 16, 130, 8}, 1, tolerance);
}

}  // namespace

VDK_CHECK("multi_sample_head ieee") { check_all<float>(Number::kFloat, Precision::kIeee, 1e-5); }
VDK_CHECK("multi_sample_head tf32x3") { check_all<float>(Number::kFloat, Precision::kTf32x3, 1e-5); }
VDK_CHECK("multi_sample_head tf32") { check_all<float>(Number::kFloat, Precision::kTf32, 2e-3); }
VDK_CHECK("multi_sample_head bf16") { check_all<vdk::BFloat16>(Number::kBFloat16, Precision::kIeee, 2e-3); }
VDK_CHECK("multi_sample_head fp16") { check_all<vdk::Float16>(Number::kHalf, Precision::kIeee, 2e-3); }
