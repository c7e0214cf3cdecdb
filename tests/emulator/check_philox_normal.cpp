#include "check.h"
#include "cuda/simt.cuh"
#include "philox_normal/cuda.h"
#include "random/philox.h"

namespace {

constexpr int64_t kSeed = 0x123456789ABCDEF1;

double as_double(int64_t x) { return double(x); }
double as_double(double x) { return x; }
double as_double(float x) { return x; }
double as_double(vdk::Float16 x) { return vdk::to_float(x); }
double as_double(vdk::BFloat16 x) { return vdk::to_float(x); }

template <class T, class Launch>
void check_noise(Launch launch, double tolerance) {
  // rows of whole groups; rows shorter than a block's share; rows longer
  const int64_t shapes[][2] = {{3, 700}, {300, 5}, {2, 2051}, {1, 1}};
  for (const auto& shape : shapes) {
    const int64_t rows = shape[0], cols = shape[1], groups = (cols + 3) / 4;
    std::vector<T> out(size_t(rows * cols));
    launch(out.data(), rows, cols, &kSeed, nullptr);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const uint64_t counter = uint64_t(i / cols * groups + i % cols / 4);
      uint32_t words[4] = {uint32_t(counter), uint32_t(counter >> 32), 0, 0};
      double z[4];
      vdk::philox4x32(words, uint32_t(kSeed), uint32_t(uint64_t(kSeed) >> 32));
      vdk::box_muller_f64(words, z);
      const int64_t j = i % cols % 4;
      emu::expect_close(as_double(out[i]), sizeof(T) == 8 && tolerance == 0 ? double(words[j]) : z[j],
                        tolerance, "noise");
    }
  }
}

template <class T>
void check_normal(double tolerance) {
  check_noise<T>([](T* out, int64_t rows, int64_t cols, const int64_t* seed,
                    void* stream) { vdk::cuda::philox_normal(out, rows, cols, seed, stream); },
                 tolerance);
}

}  // namespace

VDK_CHECK("philox_bits") { check_noise<int64_t>(&vdk::cuda::philox_bits, 0); }
VDK_CHECK("philox_normal float") { check_normal<float>(1e-5); }
VDK_CHECK("philox_normal double") { check_normal<double>(1e-13); }
VDK_CHECK("philox_normal float16") { check_normal<vdk::Float16>(1e-3); }
VDK_CHECK("philox_normal bfloat16") { check_normal<vdk::BFloat16>(1e-2); }
