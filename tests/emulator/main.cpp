// checks SCHEDULES [--unordered]           every registered check under that many schedules; one line each
// checks SCHEDULES [--unordered] MUTANT    one kernel of mutants.cuh: exit code 0 if nothing was noticed
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "check.h"
#include "mutants.cuh"

namespace {

int run_mutant(const char* name, int schedules) {
  for (const mutants::Mutant& mutant : mutants::all()) {
    if (strcmp(mutant.name, name) != 0) continue;
    for (int seed = 0; seed < schedules; ++seed) {
      emu::options().seed = uint64_t(seed);
      try {
        const double error = mutant.error();
        if (error == 0) continue;
        printf("wrong by %g under schedule %d\n", error, seed);
      } catch (const std::exception& e) {
        printf("%s\n", e.what());
      }
      return 1;
    }
    return 0;
  }
  fprintf(stderr, "no mutant is called '%s'\n", name);
  return 2;
}

int run_checks(int schedules) {
  int failed = 0;
  for (const emu::Check::Entry& entry : emu::Check::all()) {
    std::string problem;
    for (int seed = 0; seed < schedules && problem.empty(); ++seed) {
      emu::options().seed = uint64_t(seed);
      emu::options().tensor_core = seed % 2 ? emu::Rounding::kTruncate : emu::Rounding::kNearest;
      try {
        entry.run();
      } catch (const std::exception& e) {
        problem = e.what();
      }
    }
    printf("%s\t%s\n", entry.name, problem.empty() ? "ok" : problem.c_str());
    fflush(stdout);
    failed += !problem.empty();
  }
  return failed != 0;
}

}  // namespace

int main(int argc, char** argv) {
  int at = 1;
  const int schedules = argc > at ? atoi(argv[at++]) : 1;
  if (argc > at && strcmp(argv[at], "--unordered") == 0) {
    emu::options().unordered_blocks = true;
    ++at;
  }
  return argc > at ? run_mutant(argv[at], schedules) : run_checks(schedules);
}
