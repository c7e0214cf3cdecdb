# Fails the build if an object compiled for one instruction set emits a function that another file may share.
#
# Inline functions and template instances become weak symbols, of which a linker keeps one copy: perhaps the
# AVX-512 one, which then crashes on CPUs without it. Only those within the namespace of the instruction set
# are safe. Arguments: NM, ISA, OBJECTS.
string(LENGTH "${ISA}" length)
list(FILTER OBJECTS EXCLUDE REGEX "\\.(gch|pch)$")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${NM}" --defined-only "${object}" OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${NM} failed on ${object}")
  endif()
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  # DW.ref.* are pointers, the same in every copy
  list(FILTER weak EXCLUDE REGEX "${length}${ISA}|DW\\.ref\\.")
  if(weak)
    list(JOIN weak "\n  " shown)
    message(FATAL_ERROR "${object} shares symbols with objects built for other CPUs:\n  ${shown}\n"
                        "Put them into namespace VDK_ISA, or force them inline.")
  endif()
endforeach()
