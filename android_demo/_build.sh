# shellcheck shell=sh
# How llama.cpp is compiled for a phone; install.sh does it there, aarch64.sh here. README.md says why.

proc=${EDGESPEC_PROC:-/proc}
# shellcheck disable=SC2034 # for the scripts that source this one
version=$(sed -n 's/^ *"llama-cpp-python==\([^"]*\)",$/\1/p' pyproject.toml)

# The part of the instruction set beyond ARMv8.0 that the kernel says all cores have, for ggml's CPU code alone: with
# dot products, quantized models are several times as fast. -mcpu=native asks one core, and a phone has several kinds.
arm_arch() {
    features=" $(sed -n 's/^Features[^:]*: *//p' "$proc/cpuinfo" 2>/dev/null | head -n 1) "
    case $features in *" asimddp "*) ;; *) return 0 ;; esac
    arch=armv8.2-a+dotprod
    case $features in *" asimdhp "*) arch=$arch+fp16 ;; esac
    case $features in *" i8mm "*) arch=$arch+i8mm ;; esac
    echo "-DGGML_CPU_ARM_ARCH=$arch"
}

# How llama.cpp is compiled here; CMAKE_ARGS of the caller come last and win. README.md says why. An x86 (a Chromebook,
# an emulator) has cores of one kind, and without asking it ggml would take AVX2 for granted.
cmake_arguments() {
    native=OFF
    if grep -q '^flags' "$proc/cpuinfo" 2>/dev/null; then native=ON; fi
    echo "-DGGML_NATIVE=$native $(arm_arch) -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=OFF -DLLAVA_BUILD=OFF" \
        "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF" \
        "-DLLAMA_BUILD_APP=OFF -DLLAMA_SUBPROCESS=OFF -DLLAMA_OPENSSL=OFF"
}
