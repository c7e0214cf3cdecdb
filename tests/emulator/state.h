// What machine.cpp and memory.cpp share: the state of the one launch that runs.
#pragma once
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "machine.h"

namespace emu {

constexpr unsigned kMaxThreads = 1024;
constexpr size_t kMaxShared = 227 << 10, kMaxStaticShared = 48 << 10;
constexpr size_t kRedZone = 128;

enum class State : uint8_t { kReady, kAtBarrier, kInMeeting, kDone };

// A warp-wide exchange in progress for one mask; objects in turn, so that a lane which runs ahead does not
// hand its knowledge to those that have not left the meeting before.
struct Mask {
  unsigned lanes;
  int turn;
  char objects[2];
};

struct Warp {
  std::vector<Mask> masks;
  std::vector<std::unique_ptr<Meeting>> meetings;  // those of the past are used again
  std::vector<int> readers;                        // lanes that may still read meeting i
};

struct Lane {
  Fiber fiber;
  Thread thread;
  State state = State::kDone;
  Site site{};
  const char* what = "";
  unsigned mask = 0;
  Payload payload;
  int meeting = -1;  // whose results this lane may read
  int warp = 0;
  std::vector<Copy> copies;    // by age; the first `landed` have
  std::vector<size_t> groups;  // ends of committed groups in `copies`; the first `waited` are over
  size_t landed = 0, waited = 0;
};

// Shared memory of a block: arrays between red zones.
struct Arena {
  struct Array {
    const char* name;
    Site site;
    char* begin;
    size_t bytes;
  };
  static constexpr size_t kBytes = kMaxShared + 64 * 2 * kRedZone;
  char* memory = nullptr;
  size_t used = 0;
  std::vector<Array> arrays;
  char objects[2] = {};  // of __syncthreads
};

struct Machine {
  Options options;
  uint64_t random = 0;
  Fiber host;
  std::vector<std::unique_ptr<Lane>> lanes;
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<Arena>> arenas;
  Arena* arena = nullptr;
  Lane* running = nullptr;
  unsigned n = 0;  // threads of the block
  size_t shared_bytes = 0;
  int barrier_turn = 0;
  uint64_t writer = 0;  // launch, block
  void (*body)(const void*) = nullptr;
  const void* context = nullptr;
  char failure[512] =
      "";  // no string: nobody would delete it, and sanitizers would see it pass between threads
  std::vector<KernelRecord> records;
  KernelRecord* record = nullptr;
  std::vector<Buffer*> buffers;
  char launch_begin = 0, launch_end = 0, blocks = 0;  // what the sanitizer orders launches and blocks by
};

extern Machine machine;

inline bool same(Site a, Site b) { return a.line == b.line && strcmp(a.file, b.file) == 0; }

// On the host's side: leave the launch.
[[noreturn]] void give_up(const Lane* where, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Shared memory of a block that starts, and of one that has ended.
void new_arena();
void drop_arenas();
void check_red_zones();

}  // namespace emu
