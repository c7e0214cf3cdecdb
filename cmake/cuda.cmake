# CUDA kernels: csrc/*/*.cu by nvcc, which sees no torch, and csrc/*/binding_cuda.cpp, which sees no CUDA.
#
# Machine code for every architecture of VDROPKERN_CUDA_ARCHS, and PTX of the newest for GPUs to come. CUDA's
# runtime is linked statically: the library then needs no CUDA to load, and no release of it in particular to run.
set(CMAKE_CUDA_COMPILER "${VDROPKERN_NVCC}")
set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)

list(SORT VDROPKERN_CUDA_ARCHS COMPARE NATURAL)
list(GET VDROPKERN_CUDA_ARCHS -1 newest)
list(TRANSFORM VDROPKERN_CUDA_ARCHS APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
list(APPEND CMAKE_CUDA_ARCHITECTURES ${newest}-virtual)

enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

# Add the kernels and their bindings to `target`.
function(vdropkern_add_cuda_kernels target)
  file(GLOB kernels CONFIGURE_DEPENDS csrc/*/*.cu)
  file(GLOB bindings CONFIGURE_DEPENDS csrc/*/binding_cuda.cpp)
  add_library(kernels_cuda OBJECT ${kernels})
  target_include_directories(kernels_cuda PRIVATE csrc)
  target_compile_options(kernels_cuda PRIVATE -O3 --threads=${VDROPKERN_NVCC_THREADS})
  # an object library, so that the C++ compiler and not nvcc links
  target_sources(${target} PRIVATE ${bindings} $<TARGET_OBJECTS:kernels_cuda>)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static -Wl,--exclude-libs,libcudart_static.a)

  string(REGEX MATCH "^[0-9]+\\.[0-9]+" version "${CMAKE_CUDA_COMPILER_VERSION}")
  list(TRANSFORM VDROPKERN_CUDA_ARCHS PREPEND "sm_" OUTPUT_VARIABLE built)
  list(JOIN built " " built)
  set_property(SOURCE csrc/registration.cpp APPEND PROPERTY COMPILE_DEFINITIONS
                                                            "VDK_CUDA_BUILD=\"${version} ${built} compute_${newest}\"")
endfunction()
