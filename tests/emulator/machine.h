// A GPU made of fibers: one for each CUDA thread of the block that runs. What is declared here is compiled
// without sanitizer instrumentation (machine.cpp), so the sanitizers see the kernels' accesses and nothing
// else.
//
// Between two points where threads wait, a thread runs alone; which thread runs next, which warp runs ahead
// and which block comes first is drawn from a seed. Misuse ends the launch with an exception that says where.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emu {

// How tensor cores round: operands of tf32 that were not rounded before, and sums. Hardware is documented to
// do neither; results must hold in both modes.
enum class Rounding { kNearest, kTruncate };

struct Options {
  uint64_t seed = 0;
  Rounding tensor_core = Rounding::kNearest;
  bool unordered_blocks = false;  // for the thread sanitizer: blocks race with one another too
};
Options& options();

// Where a kernel called something: defaults of arguments are evaluated at the call.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct Thread {
  dim3 index, block, block_size, grid_size;
  int lane;
};
extern const Thread* current;  // the thread that runs

// Stop the launch: launch() throws std::runtime_error with this text and the thread's place.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(const void*),
            const void* context);
template <class F>
void launch(const char* name, dim3 grid, dim3 block, size_t shared_bytes, const F& body) {
  launch(name, grid, block, shared_bytes, [](const void* f) { (*static_cast<const F*>(f))(); }, &body);
}

// "kl_kernel<float, Prior::kArd, true>": a function as the compiler spells it, the usual namespaces left out.
std::string short_name(std::string pretty_function);
template <auto kFunction>
std::string pretty_function() {
  return __PRETTY_FUNCTION__;
}
template <auto kFunction>
const char* name_of() {
  static const std::string name = short_name(pretty_function<kFunction>());
  return name.c_str();
}

void block_barrier(Site site);

// Wait until every lane of `mask` has called this at the same site. What the lanes published can be read
// until the running lane meets others again.
struct alignas(16) Payload {
  unsigned char bytes[32];
};
struct Meeting {
  unsigned lanes;  // those that took part
  Payload payload[32];
};
const Meeting& meet(const char* what, unsigned mask, const void* payload, size_t bytes, Site site);

void* shared_memory();                                          // the dynamic part
void* shared_array(const char* name, size_t bytes, Site site);  // one for the whole block
void require_shared(const char* what, const void* p, size_t bytes);

// cp.async of the running thread. `land` is called for what has to arrive, oldest first.
struct Copy {
  void* dst;
  const void* src;  // null: zeros
  int words;        // of 32 bits
};
void async_issue(const Copy& copy);
void async_commit();
bool async_next(size_t groups_in_flight, Copy& copy);  // false when no more have to land

// Global memory. Buffers may be registered: then every access must lie inside one of them, whole, and no
// block may read or write what another one wrote in the same launch, but by atomics.
struct Traffic {
  uint64_t loaded = 0, stored = 0;  // bytes; an input of at most 16 bytes, as a seed, counts once
  uint64_t distinct = 0;            // bytes of buffers, counted once a launch loaded and once stored
};
void count_load(const void* p, size_t bytes, Site site);
void count_store(const void* p, size_t bytes, Site site);
void count_atomic(const void* p, size_t bytes, Site site);

class Buffer {
 public:
  Buffer(std::string name, const void* base, size_t bytes, bool writable);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const std::string name;
  const char* const base;
  const size_t bytes;
  const bool writable;
  Traffic traffic;
  std::vector<uint64_t> writers;  // of every two bytes: launch and block
  std::vector<uint64_t> readers;  // the last launch
};

struct KernelRecord {
  std::string name;
  uint64_t launches = 0, threads = 0, barriers = 0;
  Traffic traffic;
  size_t shared_bytes = 0;  // the most a block used
};
const std::vector<KernelRecord>& records();
void clear_records();

}  // namespace emu
