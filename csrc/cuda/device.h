#pragma once

namespace vdk {
namespace cuda {

int multiprocessors(int device);
int capability(int device);  // 90 for sm_90

}  // namespace cuda
}  // namespace vdk
