# Chooses a C++ compiler before project() looks for one: what the user says, the system's, else the one in PyPI's ziglang, else a sentence.
if(CMAKE_CXX_COMPILER OR CMAKE_TOOLCHAIN_FILE OR WIN32)
  return()
endif()
if(DEFINED ENV{CXX})
  # scikit-build-core sets CXX to the compiler that Python was built with, whether this machine has it or not.
  separate_arguments(wanted UNIX_COMMAND "$ENV{CXX}")
  list(GET wanted 0 wanted)
  find_program(ONNX_COMPRESS_WANTED_CXX NAMES "${wanted}")
  if(ONNX_COMPRESS_WANTED_CXX)
    return()
  endif()
  unset(ENV{CXX})
endif()
find_program(ONNX_COMPRESS_SYSTEM_CXX NAMES c++ g++ clang++)
if(ONNX_COMPRESS_SYSTEM_CXX)
  set(CMAKE_CXX_COMPILER "${ONNX_COMPRESS_SYSTEM_CXX}")
  return()
endif()

# pip builds in an environment of its own, made by PYTHONPATH: without that variable the user's ziglang is seen.
find_program(ONNX_COMPRESS_PYTHON NAMES python3 python HINTS "${Python_ROOT_DIR}/bin" "${Python3_ROOT_DIR}/bin")
foreach(python IN ITEMS "${Python_EXECUTABLE}" "${Python3_EXECUTABLE}" "${PYTHON_EXECUTABLE}" "${ONNX_COMPRESS_PYTHON}")
  if(python)
    execute_process(
      COMMAND "${CMAKE_COMMAND}" -E env --unset=PYTHONPATH --unset=PYTHONNOUSERSITE "${python}" -c
              "import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), 'zig'), end='')"
      OUTPUT_VARIABLE zig RESULT_VARIABLE missing ERROR_QUIET)
    if(NOT missing)
      message(STATUS "No system compiler: using ziglang, ${zig}")
      set(CMAKE_CXX_COMPILER "${zig}" c++)
      return()
    endif()
  endif()
endforeach()

message(FATAL_ERROR
  "onnx-compress needs a C++17 compiler and found none: install g++ or clang++ (Debian, Ubuntu: apt install g++; macOS: "
  "xcode-select --install), or run `pip install ziglang`, and install again.")
