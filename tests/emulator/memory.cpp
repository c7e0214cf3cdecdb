// Shared memory between red zones, copies under way, and global memory whose accesses are counted and
// checked.
#include <algorithm>
#include <cstdlib>

#include "state.h"

namespace emu {
namespace {

constexpr unsigned char kRedByte = 0xA5, kGarbage = 0xFF;  // NaN in every floating type

void fill(char* p, size_t bytes, unsigned char value) {
  for (size_t i = 0; i < bytes; ++i) static_cast<volatile char*>(p)[i] = char(value);
}

char* carve(const char* name, Site site, size_t bytes, size_t align) {
  Arena& a = *machine.arena;
  size_t begin = a.used + kRedZone;
  begin = (begin + align - 1) / align * align;
  char* const p = a.memory + begin;
  allow(a.memory + a.used, begin + bytes - a.used);
  fill(a.memory + a.used, begin - a.used, kRedByte);
  fill(p, bytes, kGarbage);
  fill(p + bytes, kRedZone, kRedByte);
  forbid(a.memory + a.used, begin - a.used);
  forbid(p + bytes, kRedZone);
  a.used = begin + bytes;
  a.arrays.push_back({name, site, p, bytes});
  return p;
}

Buffer* buffer_around(const char* p, size_t bytes) {
  for (Buffer* b : machine.buffers)
    if (p >= b->base && p + bytes <= b->base + b->bytes) return b;
  return nullptr;
}

bool in_shared(const void* address, size_t bytes) {
  const char* const p = static_cast<const char*>(address);
  for (const Arena::Array& a : machine.arena->arrays)
    if (p >= a.begin && p + bytes <= a.begin + a.bytes) return true;
  return false;
}

// Checks an access to global memory and returns its buffer, or null where none are registered.
Buffer* check_access(const char* what, const void* address, size_t bytes, Site site) {
  if (!machine.running) fail("%s outside of a kernel", what);
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fail("%s of %zu bytes at %s:%d is misaligned: %p", what, bytes, site.file, site.line, address);
  if (machine.buffers.empty()) return nullptr;
  const char* const p = static_cast<const char*>(address);
  if (Buffer* const b = buffer_around(p, bytes)) return b;
  const Buffer* nearest = machine.buffers[0];
  const auto distance = [&](const Buffer* b) { return p < b->base ? b->base - p : p - b->base; };
  for (const Buffer* b : machine.buffers)
    if (distance(b) < distance(nearest)) nearest = b;
  fail("%s of %zu bytes at %s:%d is out of bounds: byte %td of the %zu of '%s'", what, bytes, site.file,
       site.line, p - nearest->base, nearest->bytes, nearest->name.c_str());
}

// Blocks run in any order, or at once: what one wrote in this launch no other may touch.
void check_writers(const char* what, const Buffer* b, const void* address, size_t bytes, Site site) {
  if (!b || b->writers.empty()) return;
  const size_t first = size_t(static_cast<const char*>(address) - b->base) / 2;
  for (size_t i = 0; i < (bytes + 1) / 2; ++i) {
    const uint64_t writer = b->writers[first + i];
    if (writer != machine.writer && writer >> 32 == machine.writer >> 32)
      fail("byte %zu of '%s' is %s at %s:%d, but block %u wrote it in this launch", 2 * (first + i),
           b->name.c_str(), what, site.file, site.line, unsigned(writer));
  }
}

// Marks what is accessed; counts what had not been in this launch.
void count_distinct(std::vector<uint64_t>& marks, const Buffer* b, const void* p, size_t bytes,
                    uint64_t mark) {
  const size_t first = size_t(static_cast<const char*>(p) - b->base) / 2;
  const int block_bits = &marks == &b->writers ? 32 : 0;
  for (size_t i = first; i < first + (bytes + 1) / 2; ++i) {
    if (marks[i] >> block_bits != machine.writer >> 32) machine.record->traffic.distinct += 2;
    marks[i] = mark;
  }
}

}  // namespace

void new_arena() {
  const bool fresh = machine.options.unordered_blocks || machine.arenas.empty();
  if (fresh) {
    machine.arenas.push_back(std::make_unique<Arena>());
    machine.arenas.back()->memory = static_cast<char*>(std::aligned_alloc(128, Arena::kBytes));
    machine.arenas.back()->arrays.reserve(32);
  }
  machine.arena = machine.arenas.back().get();
  machine.arena->used = 0;
  machine.arena->arrays.clear();
  forbid(machine.arena->memory, Arena::kBytes);
  carve("dynamic shared memory", Site{"", 0}, machine.shared_bytes, 128);
}

void drop_arenas() {
  for (auto& a : machine.arenas) {
    allow(a->memory, Arena::kBytes);
    std::free(a->memory);
  }
  machine.arenas.clear();
  machine.arena = nullptr;
}

void check_red_zones() {
  size_t total = 0;
  for (const Arena::Array& a : machine.arena->arrays) {
    total += a.bytes;
#ifndef VDK_ASAN  // it has seen to it
    for (size_t i = 0; i < kRedZone; ++i) {
      const bool below = static_cast<unsigned char>(a.begin[-1 - ptrdiff_t(i)]) != kRedByte;
      const bool above = static_cast<unsigned char>(a.begin[a.bytes + i]) != kRedByte;
      if (below || above)
        give_up(machine.lanes[0].get(), "write %zu bytes %s '%s' in shared memory", below ? i + 1 : i,
                below ? "before" : "past the end of", a.name);
    }
#endif
  }
  machine.record->shared_bytes = std::max(machine.record->shared_bytes, total);
}

void* shared_memory() { return machine.arena->arrays[0].begin; }

void* shared_array(const char* name, size_t bytes, Site site) {
  size_t total = bytes;
  for (size_t i = 1; i < machine.arena->arrays.size(); ++i) {
    const Arena::Array& a = machine.arena->arrays[i];
    if (strcmp(a.name, name) == 0 && same(a.site, site)) return a.begin;
    total += a.bytes;
  }
  if (total > kMaxStaticShared)
    fail("%zu bytes of static shared memory; at most %zu", total, kMaxStaticShared);
  if (total + machine.shared_bytes > kMaxShared) fail("more than %zu bytes of shared memory", kMaxShared);
  if (machine.arena->arrays.size() == machine.arena->arrays.capacity()) fail("too many shared arrays");
  return carve(name, site, bytes, 16);
}

void require_shared(const char* what, const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0)
    fail("%s of %zu bytes is misaligned: %p", what, bytes, address);
  if (!in_shared(address, bytes)) fail("%s of %zu bytes: not inside of shared memory", what, bytes);
}

void async_issue(const Copy& copy) {
  const Unobserved quiet;
  machine.running->copies.push_back(copy);
}

void async_commit() {
  const Unobserved quiet;
  machine.running->groups.push_back(machine.running->copies.size());
}

bool async_next(size_t groups_in_flight, Copy& copy) {
  Lane& me = *machine.running;
  for (; me.groups.size() - me.waited > groups_in_flight; ++me.waited)
    if (me.landed < me.groups[me.waited]) {
      copy = me.copies[me.landed++];
      return true;
    }
  return false;
}

void count_load(const void* p, size_t bytes, Site site) {
  Buffer* const b = check_access("load", p, bytes, site);
  check_writers("read", b, p, bytes, site);
  if (b && !b->writable && b->bytes <= 16) {
    p = b->base;
    bytes = b->traffic.loaded ? 0 : b->bytes;
  }
  if (b) count_distinct(b->readers, b, p, bytes, machine.writer >> 32);
  if (b) b->traffic.loaded += bytes;
  machine.record->traffic.loaded += bytes;
}

void count_store(const void* p, size_t bytes, Site site) {
  Buffer* const b = check_access("store", p, bytes, site);
  if (b && !b->writable)
    fail("store to '%s' at %s:%d, which is an input", b->name.c_str(), site.file, site.line);
  check_writers("written", b, p, bytes, site);
  if (b) {
    count_distinct(b->writers, b, p, bytes, machine.writer);
    b->traffic.stored += bytes;
  }
  machine.record->traffic.stored += bytes;
}

void count_atomic(const void* p, size_t bytes, Site site) {
  if (in_shared(p, bytes)) return;
  Buffer* const b = check_access("atomic access", p, bytes, site);
  for (Traffic* t : {b ? &b->traffic : nullptr, &machine.record->traffic}) {
    if (!t) continue;
    t->loaded += bytes;
    t->stored += bytes;
  }
}

Buffer::Buffer(std::string name, const void* base, size_t bytes, bool writable)
    : name(std::move(name)), base(static_cast<const char*>(base)), bytes(bytes), writable(writable) {
  if (writable) writers.resize(bytes / 2 + 1);
  readers.resize(bytes / 2 + 1);
  machine.buffers.push_back(this);
}
Buffer::~Buffer() { machine.buffers.erase(std::find(machine.buffers.begin(), machine.buffers.end(), this)); }

}  // namespace emu
