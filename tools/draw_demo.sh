#!/bin/sh
# Draws a rename in a file, with drafts and then plainly, for the README: sh tools/draw_demo.sh OUT.svg
# A real run, of a model that must be here: edgespec models pull qwen2.5-coder-1.5b
set -eu
[ $# -eq 1 ] || { echo "usage: sh tools/draw_demo.sh OUT.svg" >&2; exit 1; }
out=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh
set_up test # which draws
forget_settings
export EDGESPEC_PREFIX_CACHE=0 # else the second answer would start from the prompt that the first one read
PATH=$PWD/.venv/bin:$PATH
drawing=$PWD/tools/draw_terminal.py
folder=$(mktemp -d)
clean_up_with "rm -rf '$folder'"
cd "$folder"
cat >pantry.py <<'PYTHON'
from dataclasses import dataclass, field


@dataclass
class Jar:
    label: str
    grams: int


@dataclass
class Shelf:
    room: str
    jars: list[Jar] = field(default_factory=list)

    def weight(self):
        return sum(jar.grams for jar in self.jars)

    def take(self, label):
        for place, jar in enumerate(self.jars):
            if jar.label == label:
                return self.jars.pop(place)
        return None


def heaviest(shelves):
    return max(shelves, key=lambda shelf: shelf.weight())
PYTHON
# shellcheck disable=SC2016 # the shell that is drawn expands it
ask='edgespec generate -m qwen2.5-coder-1.5b --stats -p "Rename the method take to remove. $(cat pantry.py)"'
"$python" "$drawing" "$out" "$ask" "$ask -d none >/dev/null"
