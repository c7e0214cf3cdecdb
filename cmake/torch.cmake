# torch's stable ABI: headers to compile against, libraries to name as needed.
#
# find_package(Torch) is not used: it demands the CUDA toolkit wherever torch was built with CUDA, and brings
# ATen, which changes with each release.
add_library(vdropkern_torch INTERFACE)
target_include_directories(vdropkern_torch SYSTEM INTERFACE "${VDROPKERN_TORCH_INCLUDE}")
# the ABI of torch 2.10: the library then runs on every later torch
target_compile_definitions(vdropkern_torch INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
target_link_directories(vdropkern_torch INTERFACE "${VDROPKERN_TORCH_LIB}")
if(APPLE)
  target_link_libraries(vdropkern_torch INTERFACE torch torch_cpu)
else()
  # libtorch.so has no symbols of its own, but it is what loads libtorch_cuda.so where there is one
  target_link_libraries(vdropkern_torch INTERFACE -Wl,--no-as-needed torch torch_cpu -Wl,--as-needed)
endif()
