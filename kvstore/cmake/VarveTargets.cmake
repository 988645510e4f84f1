# Target helpers shared by every room.

find_program(VARVE_CCACHE ccache)
if(VARVE_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${VARVE_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${VARVE_CCACHE})
endif()

add_library(varve_options INTERFACE)
target_compile_options(varve_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wno-missing-field-initializers>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:Clang>>:-Wthread-safety>)
target_include_directories(varve_options INTERFACE ${CMAKE_SOURCE_DIR})
if(VARVE_SANITIZE)
  target_compile_options(varve_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${VARVE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>
    # GCC warns of variables in its own standard library once a sanitizer has rewritten the code.
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-maybe-uninitialized>)
  target_link_options(varve_options INTERFACE -fsanitize=${VARVE_SANITIZE})
endif()

# varve_library(NAME SOURCES ... [PUBLIC libs ...] [PRIVATE libs ...]): one room, one static library.
function(varve_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC varve_options Threads::Threads ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# varve_binary(NAME SOURCES ... LIBS ...): a program in bin/.
function(varve_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE varve_options ${ARG_LIBS})
endfunction()

# varve_test(NAME LABEL label SOURCES ... LIBS ... [TIMEOUT s] [WHOLE]): a GoogleTest program. Each TEST is a ctest
# entry, unless WHOLE: then the program is one entry (cheap, many cases).
function(varve_test name)
  cmake_parse_arguments(ARG "WHOLE" "LABEL;TIMEOUT" "SOURCES;LIBS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE varve_options ${ARG_LIBS} GTest::gmock_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  if(ARG_WHOLE)
    add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
    set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  else()
    gtest_discover_tests(${name} TEST_PREFIX "${name}/" DISCOVERY_TIMEOUT 60
      PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT})
  endif()
endfunction()

# varve_benchmark(NAME SOURCES ... LIBS ...): a Google Benchmark program in bin/, never run by ctest.
function(varve_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE varve_options ${ARG_LIBS} benchmark::benchmark)
endfunction()

# Finds nvcc (PATH, then /usr/local/cuda/bin) and sets VARVE_HAVE_CUDA.
macro(varve_enable_cuda)
  set(VARVE_HAVE_CUDA OFF)
  if(NOT VARVE_CUDA STREQUAL "OFF")
    if(NOT CMAKE_CUDA_COMPILER)
      find_program(VARVE_NVCC nvcc HINTS ENV CUDACXX PATHS /usr/local/cuda/bin)
      if(VARVE_NVCC)
        set(CMAKE_CUDA_COMPILER ${VARVE_NVCC})
      endif()
    endif()
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual)
    endif()
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
      find_package(CUDAToolkit REQUIRED)
      set(VARVE_HAVE_CUDA ON)
      message(STATUS "CUDA twins: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}")
    elseif(VARVE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "VARVE_CUDA=ON but no nvcc was found on PATH or in /usr/local/cuda/bin")
    else()
      message(STATUS "CUDA twins: left out, no nvcc found")
    endif()
  endif()
endmacro()

# varve_cuda_library(NAME SOURCES ... PUBLIC ...): kernels; only call when VARVE_HAVE_CUDA.
function(varve_cuda_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  # CMake 3.25 knows no CUDA20 for this nvcc and takes the C++ standard for CUDA's: the option below sets it instead.
  set_target_properties(${name} PROPERTIES CUDA_STANDARD_REQUIRED OFF)
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --fmad=false -Werror=all-warnings -Xcompiler=-Wall>)
  target_include_directories(${name} PUBLIC ${CMAKE_SOURCE_DIR})
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC} CUDA::cudart_static)
endfunction()
