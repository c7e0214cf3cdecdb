// linear_lrt on a GPU: launchers over raw device pointers. All matrices are row-major and dense; nothing here
// waits for the device, allocates, or reads device memory from the host.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../kl/prior.h"

namespace vdk {
namespace cuda {

enum class Number { kFloat, kBFloat16, kHalf };
constexpr int64_t size_of(Number type) { return type == Number::kFloat ? 4 : 2; }

// How float operands are multiplied; half types always run on the tensor cores, see mma.cuh.
enum class Precision {
  kIeee,        // FFMA: any GPU, and the only choice below sm_80
  kTf32x3,      // three tf32 products for one: as exact as float
  kTf32x3Mean,  // three for the mean, one for the variance, which only scales noise
  kTf32,        // one each
};

struct LrtShape {
  int64_t batch, out, in;
  Number type;  // of x, mu, y and their gradients
  Precision precision;
};

// sigma^2 = exp(log), or exp(log) mu^2; `log` is [out, in], or broadcast along its rows or columns.
struct LrtWeights {
  const void *mu, *log;
  int64_t log_rows, log_cols;  // 1 or out, 1 or in
  bool is_alpha;
  bool log_is_float;  // or else of the type of mu
  float exp_clip;     // weights with alpha >= exp_clip have mean 0 in the products; infinity: none
};

struct LrtForward {
  LrtShape shape;
  LrtWeights w;
  const void* x;        // [batch, in]
  const float* bias;    // [out] or null
  const int64_t* seed;  // on the device
  float eps;
  void* y;      // [batch, out]
  float* std;   // [batch, out]
  Prior prior;  // of the KL, kNone: not computed; needs a `log` of shape [out, in]
  float* kl;    // [1]
};

struct LrtBackward {
  LrtShape shape;
  LrtWeights w;
  const void *dy, *x;
  const float* std;
  const int64_t* seed;
  void* dx;               // [batch, in] or null
  void *dmu, *dlog;       // [out, in], [log_rows, log_cols], or both null
  float* dbias;           // [out] or null
  Prior prior;            // whose gradient is added to dmu and dlog; needs a `log` of shape [out, in]
  const float* kl_scale;  // on the device: the gradient that reaches the KL
};

// Bytes of device memory a call needs for itself, aligned to 256 bytes. It depends on shapes, on which
// results are asked for and on the number of multiprocessors, never on values.
size_t linear_lrt_workspace(const LrtForward& args, int multiprocessors);
size_t linear_lrt_workspace(const LrtBackward& args, int multiprocessors);

void linear_lrt_forward(const LrtForward& args, int multiprocessors, void* workspace, void* stream);
void linear_lrt_backward(const LrtBackward& args, int multiprocessors, void* workspace, void* stream);

}  // namespace cuda
}  // namespace vdk
