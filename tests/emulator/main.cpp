// checks                              list what there is: "check NAME" and "mutant NAME"
// checks NAME SCHEDULES [unordered]   run one; exit code 0 if nothing was noticed. `unordered`: blocks may
// race
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "check.h"
#include "mutants.cuh"

namespace {

int list() {
  for (const emu::Check::Entry& entry : emu::Check::all()) printf("check %s\n", entry.name);
  for (const mutants::Mutant& mutant : mutants::all()) printf("mutant %s\n", mutant.name);
  return 0;
}

// False and a line on stdout if something is wrong.
bool passes(const char* name) {
  for (const mutants::Mutant& mutant : mutants::all()) {
    if (strcmp(mutant.name, name) != 0) continue;
    const double error = mutant.error();
    if (error != 0) printf("wrong by %g\n", error);
    return error == 0;
  }
  for (const emu::Check::Entry& entry : emu::Check::all()) {
    if (strcmp(entry.name, name) != 0) continue;
    entry.run();
    return true;
  }
  throw std::invalid_argument(std::string("nothing is called ") + name);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return list();
  emu::options().unordered_blocks = argc > 3;
  try {
    for (int schedule = 0; schedule < atoi(argv[2]); ++schedule) {
      emu::options().seed = uint64_t(schedule);
      emu::options().tensor_core = schedule % 2 ? emu::Rounding::kTruncate : emu::Rounding::kNearest;
      if (!passes(argv[1])) return 1;
    }
  } catch (const std::exception& e) {
    printf("%s\n", e.what());
    return 1;
  }
  return 0;
}
