#!/bin/sh
# Measures edgespec on an NVIDIA card against plain decoding, llama-cpp-python and llama-server, all built with CUDA:
#   sh tools/bench_cuda.sh MODEL.gguf PROMPTS.jsonl [DRAFTER.gguf] [-- OPTIONS of edgespec bench]
# llama-server drafts with DRAFTER.gguf too, so it has to have its whole vocabulary (no `edgespec trim` file).
# The result is benchmarks/results/cuda-MODEL.json, with a report beside it; started again, it goes on where it was.
# All programs are loaded at once: the card has to hold the model 7 times, with a drafter 9 times, and that 3 times.
# The llama-cpp-python in .venv is replaced by one with CUDA, unless it has it.
set -eu
called_from=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

# from_there FILE: an absolute path of what the caller named.
from_there() {
    case $1 in
    /*) file=$1 ;;
    *) file=$called_from/$1 ;;
    esac
    [ -f "$file" ] || die "no such file: $1"
    echo "$file"
}

[ $# -ge 2 ] || die "usage: sh tools/bench_cuda.sh MODEL.gguf PROMPTS.jsonl [DRAFTER.gguf] [-- OPTIONS]"
model=$(from_there "$1")
prompts=$(from_there "$2")
shift 2
drafter=
if [ $# -gt 0 ] && [ "$1" != -- ]; then
    drafter=$(from_there "$1")
    shift
fi
[ "${1:-}" != -- ] || shift

first_working nvidia-smi >/dev/null || die "no NVIDIA driver answers here (nvidia-smi); install it first"
first_working nvcc "${CUDACXX:-nvcc}" /usr/local/cuda/bin/nvcc >/dev/null ||
    die "the CUDA compiler is missing; install the CUDA toolkit, or name it: CUDACXX=/usr/local/cuda/bin/nvcc"
[ -n "${CUDACXX:-}" ] || [ ! -x /usr/local/cuda/bin/nvcc ] || export CUDACXX=/usr/local/cuda/bin/nvcc
# shellcheck disable=SC2090 # the build splits them as a shell would
export CMAKE_ARGS="-DGGML_CUDA=on ${CMAKE_ARGS:-}"

has_cuda() { "$python" -I -c 'import sys, llama_cpp; sys.exit(not llama_cpp.llama_supports_gpu_offload())' 2>/dev/null; }

plain_arguments=$CMAKE_ARGS
set_up plot
version=$("$python" -c 'from importlib.metadata import version; print(version("llama-cpp-python"))')
if ! has_cuda; then
    say "Compiling llama-cpp-python with CUDA: this takes a while."
    need_compiler
    quicken_compilation
    logged .venv/install-cuda.log "$python" -m pip install --verbose --no-deps --force-reinstall --no-cache-dir \
        --no-binary llama-cpp-python "llama-cpp-python==$version"
    has_cuda || die "the llama-cpp-python just built has no CUDA; see .venv/install-cuda.log"
fi
PEERS=$PWD/.peers/cuda CMAKE_ARGS=$plain_arguments sh tools/build_peers.sh
server=$PWD/.peers/cuda/llama.cpp-of-$version/bin/llama-server

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
name=$(basename "$model" .gguf)
set -- -m "$model" --prompts "$prompts" --server "$server" --rounds 5 "$@" \
    --peer llama-cpp-python --peer prompt-lookup=10 --peer llama-server --peer ngram-simple --peer ngram-mod \
    --peer ngram-cache \
    --json "benchmarks/results/cuda-$name.json" --report "benchmarks/results/cuda-$name.md" \
    --force
if [ -n "$drafter" ]; then
    set -- -d "auto+$drafter,auto" "$@" \
        --peer "draft-simple:3=$drafter" --peer "draft-simple:6=$drafter"
fi
# So that T(n) is known to the policy, as it is to whoever has used a model for a while.
.venv/bin/edgespec doctor -m "$model" -d "auto${drafter:++$drafter}"
exec .venv/bin/edgespec bench "$@"
