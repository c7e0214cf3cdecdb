// conv2d_lrt on a GPU: launchers over raw device pointers. Images are dense, all in the format that the shape
// says; weights are dense in channels last: [out, kernel_h, kernel_w, in / groups]. Nothing here waits for
// the device, allocates, or reads device memory from the host.
#pragma once
#include "../linear_lrt/cuda.h"
#include "shape.h"

namespace vdk {
namespace cuda {

struct ConvProblem {
  ConvShape s;
  Number type;  // of x, mu, y and their gradients
  Precision precision;
};

// sigma^2 = exp(log), or exp(log) mu^2; `log` is of mu's size.
struct ConvWeights {
  const void *mu, *log;
  bool is_alpha;
  bool log_is_float;  // or else of the type of mu
  float exp_clip;     // weights with alpha >= exp_clip have mean 0 in the products; infinity: none
};

struct ConvForward {
  ConvProblem problem;
  ConvWeights w;
  const void* x;
  const float* bias;    // [out] or null
  const int64_t* seed;  // on the device
  float eps;
  void* y;
  float* r;  // noise / (2 std), of y's size
};

struct ConvBackward {
  ConvProblem problem;
  ConvWeights w;
  const void *dy, *x;
  const float* r;
  void* dx;               // or null
  void *dmu, *dlog;       // of the weights' size, or both null
  Prior prior;            // whose gradient is added to dmu and dlog
  const float* kl_scale;  // on the device: the gradient that reaches the KL
};

// Bytes of device memory a call needs for itself, aligned to 256 bytes. It depends on shapes, on which
// results are asked for and on the number of multiprocessors, never on values.
size_t conv2d_lrt_workspace(const ConvForward& args, int multiprocessors);
size_t conv2d_lrt_workspace(const ConvBackward& args, int multiprocessors);

void conv2d_lrt_forward(const ConvForward& args, int multiprocessors, void* workspace, void* stream);
void conv2d_lrt_backward(const ConvBackward& args, int multiprocessors, void* workspace, void* stream);

}  // namespace cuda
}  // namespace vdk
