#!/bin/sh
# Builds llama-server and llama-bench, which the benchmarks compare edgespec with, into .peers/.
# They come from the llama.cpp source inside the llama-cpp-python that .venv holds, with the same native code, so that
# both run the same kernels. CMAKE_ARGS is respected, as it is by llama-cpp-python, and PEERS names another folder. The
# last line is the server's path.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

has_modules llama_cpp || die "llama-cpp-python is not installed in .venv yet; run: sh tools/demo.sh"
need_compiler
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
peers=${PEERS:-$PWD/.peers}
build=$peers/llama.cpp-of-$version
server=$build/bin/llama-server
stamp=$build/cmake-args # a build with other arguments is another one

if [ ! -x "$server" ] || [ ! -x "$build/bin/llama-bench" ] || [ "$(cat "$stamp" 2>/dev/null)" != "${CMAKE_ARGS:-}" ]; then
    rm -rf "$build"
    mkdir -p "$build"
    # A system without CMake gets it as a Python package; the venv is the place for it.
    PATH=$PWD/.venv/bin:$PATH
    first_working cmake >/dev/null || "$python" -m pip install --quiet cmake ninja
    if first_working ninja >/dev/null; then export CMAKE_GENERATOR="${CMAKE_GENERATOR:-Ninja}"; fi

    say "Fetching the source of llama-cpp-python $version."
    # --no-binary names this one package: with :all:, pip would build its build tools from source as well.
    logged "$peers/fetch.log" "$python" -m pip download --no-deps --no-binary llama-cpp-python \
        --dest "$peers" "llama-cpp-python==$version"
    tar -xzf "$peers/llama_cpp_python-$version.tar.gz" -C "$peers"
    source=$peers/llama_cpp_python-$version/vendor/llama.cpp

    say "Compiling llama-server and llama-bench: about 7 minutes on 2 cores."
    # Words, quoted as for a shell, and split as llama-cpp-python's build splits them.
    eval "set -- $("$python" -c 'import os, shlex; print(shlex.join(shlex.split(os.environ.get("CMAKE_ARGS", ""))))')"
    # git would find this project around the source, and the server would tell its commit as llama.cpp's.
    export GIT_CEILING_DIRECTORIES="$peers"
    # The server's web page would be downloaded; nobody looks at it here.
    logged "$peers/configure.log" cmake -S "$source" -B "$build" -DCMAKE_BUILD_TYPE=Release \
        -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=llama-cpp-python-$version" \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF "$@"
    logged "$peers/build.log" cmake --build "$build" --parallel "$(cores)" --target llama-server llama-bench
    printf '%s' "${CMAKE_ARGS:-}" >"$stamp"
fi
"$server" --version >/dev/null 2>&1 || die "$server does not run"
say "$server"
