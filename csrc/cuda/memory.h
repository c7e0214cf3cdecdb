// A launcher's workspace, cut into pieces.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vdk {
namespace cuda {

// Device memory handed out in pieces; on null it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}
  void* take(int64_t bytes) {
    char* const piece = memory_ ? memory_ + used_ : nullptr;
    used_ += (size_t(bytes) + 255) / 256 * 256;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

inline bool is_aligned(const void* p, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % uintptr_t(bytes) == 0;
}

}  // namespace cuda
}  // namespace vdk
