#include "binding.h"
#include "mutants.cuh"

namespace emu {

VDK_BINDING(mutants, m) {
  m.def("mutants", [] {
    std::vector<std::string> names;
    for (const mutants::Mutant& mutant : mutants::all()) names.push_back(mutant.name);
    return names;
  });
  m.def("run_mutant", [](const std::string& name) {
    for (const mutants::Mutant& mutant : mutants::all())
      if (mutant.name == name) return mutant.error();
    throw py::key_error(name);
  });
}

}  // namespace emu
