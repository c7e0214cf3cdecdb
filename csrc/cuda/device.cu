#include "device.h"

#include "launch.cuh"

namespace vdk {
namespace cuda {
namespace {

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check("cudaDeviceGetAttribute", cudaDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

int multiprocessors(int device) { return attribute(cudaDevAttrMultiProcessorCount, device); }

int capability(int device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

}  // namespace cuda
}  // namespace vdk
