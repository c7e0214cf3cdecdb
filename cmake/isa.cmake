# Kernels compiled once per instruction set and picked at run time.
include(CheckCXXCompilerFlag)
include(CheckCXXSourceCompiles)

set(VDROPKERN_KERNEL_FLAGS
    -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast)
if(VDROPKERN_SANITIZE)
  # quicker to compile, and lines that a report can name
  list(TRANSFORM VDROPKERN_KERNEL_FLAGS REPLACE "^-O3$" "-O1")
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # how wide vectors are passed is of no matter where every function that takes them is inlined
  list(APPEND VDROPKERN_KERNEL_FLAGS -Wno-psabi)
endif()
# The baseline: x86-64 (SSE2) or whatever the compiler targets, NEON on arm64.
set(VDROPKERN_ISAS portable)
set(VDROPKERN_FLAGS_portable "")

check_cxx_source_compiles("
#if !defined(__x86_64__)
#error another architecture
#endif
int main() { return 0; }" VDROPKERN_X86_64)
if(VDROPKERN_X86_64)
  # CPUs older than AVX2 alone run it here: half the time to compile is worth more
  set(VDROPKERN_FLAGS_portable -O1 -finline-functions)
endif()

macro(vdropkern_try_isa name)
  string(TOUPPER ${name} upper)
  string(REPLACE ";" " " flags "${ARGN}")
  check_cxx_compiler_flag("${flags}" VDROPKERN_HAVE_${upper})
  if(VDROPKERN_HAVE_${upper})
    list(APPEND VDROPKERN_ISAS ${name})
    set(VDROPKERN_FLAGS_${name} ${ARGN})
  endif()
endmacro()

if(VDROPKERN_X86_64)
  vdropkern_try_isa(avx2 -mavx2 -mfma -mf16c -mbmi2)
  vdropkern_try_isa(avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mbmi2
                    -mprefer-vector-width=512)
  # bfloat16 is used by intrinsics alone, in kernels that are picked where the CPU has it
  check_cxx_compiler_flag(-mavx512bf16 VDROPKERN_HAVE_BF16)
  if(VDROPKERN_HAVE_AVX512 AND VDROPKERN_HAVE_BF16)
    list(APPEND VDROPKERN_FLAGS_avx512 -mavx512bf16)
  endif()
endif()

# Compile the given sources once per instruction set and add the objects to `target`.
function(vdropkern_add_isa_kernels target)
  if(NOT ARGN)
    return()
  endif()
  foreach(isa IN LISTS VDROPKERN_ISAS)
    add_library(${target}_${isa} OBJECT ${ARGN})
    target_include_directories(${target}_${isa} PRIVATE csrc)
    target_compile_definitions(${target}_${isa} PRIVATE VDK_ISA=${isa})
    target_compile_options(${target}_${isa} PRIVATE ${VDROPKERN_KERNEL_FLAGS} ${VDROPKERN_FLAGS_${isa}})
    # 0.7 s a file, most of it the headers of intrinsics
    target_precompile_headers(${target}_${isa} PRIVATE "${PROJECT_SOURCE_DIR}/csrc/common/simd.h")
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${isa}>)
    if(isa STREQUAL "portable")
      continue()
    endif()
    string(TOUPPER ${isa} upper)
    target_compile_definitions(${target} PRIVATE VDK_BUILT_${upper})
    if(isa STREQUAL "avx512" AND VDROPKERN_HAVE_BF16)
      target_compile_definitions(${target} PRIVATE VDK_BUILT_BF16)
    endif()
    if(CMAKE_NM AND NOT APPLE)
      add_custom_command(
        TARGET ${target} PRE_LINK
        COMMAND ${CMAKE_COMMAND} "-DNM=${CMAKE_NM}" "-DISA=${isa}" "-DOBJECTS=$<TARGET_OBJECTS:${target}_${isa}>"
                -P "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/check_isa_symbols.cmake"
        VERBATIM)
    endif()
  endforeach()
endfunction()
