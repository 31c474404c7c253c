# Read by the build of llama-cpp-python when the scripts in this folder start it (see quicken_compilation in _env.sh).
# llama.cpp's library of helpers for its own programs takes a quarter of the compilation, and no Python package loads
# it. llama-cpp-python forces the cached option on; a plain variable, set before it, is what llama.cpp then sees.
set(LLAMA_BUILD_COMMON OFF)
