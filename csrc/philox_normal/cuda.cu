#include "cuda.cuh"

namespace vdk {
namespace cuda {
namespace {

template <class T>
void fill(T* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  const NoiseArgs<T> args{out, rows, cols, seed};
  const Grid grid{ceil_div(rows * groups_of(cols), kNoiseTile<T>)};
  if ((cols % 4 == 0 || rows == 1) && all_aligned16(out))
    VDK_LAUNCH(noise_kernel<T>, grid, kNoiseThreads, 0, stream, args);
  else
    VDK_LAUNCH(ragged_noise_kernel<T>, grid, kNoiseThreads, 0, stream, args);
}

}  // namespace

void philox_bits(int64_t* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  fill(out, rows, cols, seed, stream);
}
void philox_normal(float* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  fill(out, rows, cols, seed, stream);
}
void philox_normal(double* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  fill(out, rows, cols, seed, stream);
}
void philox_normal(Float16* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  fill(out, rows, cols, seed, stream);
}
void philox_normal(BFloat16* out, int64_t rows, int64_t cols, const int64_t* seed, void* stream) {
  fill(out, rows, cols, seed, stream);
}

}  // namespace cuda
}  // namespace vdk
