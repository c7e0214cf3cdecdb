// What the sanitizer executables run: every kernel on its smallest telling shapes, with values checked
// roughly (the tests in Python check them well; here the sanitizers watch).
#pragma once
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "machine.h"

namespace emu {

struct Check {
  using Run = void (*)();
  Check(const char* name, Run run) { all().push_back({name, run}); }

  struct Entry {
    const char* name;
    Run run;
  };
  static std::vector<Entry>& all() {
    static std::vector<Entry> entries;
    return entries;
  }
};

// VDK_CHECK("kl log-uniform") { launch ...; expect_close(...); }
#define VDK_CHECK_JOIN_(a, b) a##b
#define VDK_CHECK_NAME_(prefix, line) VDK_CHECK_JOIN_(prefix, line)
#define VDK_CHECK(name)                                                                                  \
  static void VDK_CHECK_NAME_(check_, __LINE__)();                                                       \
  static const ::emu::Check VDK_CHECK_NAME_(entry_, __LINE__)(name, &VDK_CHECK_NAME_(check_, __LINE__)); \
  static void VDK_CHECK_NAME_(check_, __LINE__)()

inline void expect_close(double found, double expected, double tolerance, const char* what) {
  if (std::fabs(found - expected) <= tolerance * (1 + std::fabs(expected))) return;  // false for NaN
  throw std::runtime_error(std::string(what) + ": got " + std::to_string(found) + ", expected " +
                           std::to_string(expected));
}

}  // namespace emu
