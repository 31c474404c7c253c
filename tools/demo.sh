#!/bin/sh
# Sets edgespec up in .venv and shows what it does: the same text in less time, on a model of 135 million parameters.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

# answer PROMPT: streams the answer with drafting, then sets the speed beside that of plain decoding.
answer() {
    printf '\n> %s\n\n' "$1"
    .venv/bin/edgespec generate -d auto --stats -n 200 -p "$1"
    for round in 1 2 3; do
        for drafter in auto none; do
            .venv/bin/edgespec generate -d "$drafter" --json -n 200 -p "$1" >"$results/$drafter-$round.json"
        done
    done
    "$python" -I - "$results" <<'PYTHON'
import json
import statistics
import sys
from pathlib import Path

drafted, plain = (
    [json.loads(path.read_text()) for path in sorted(Path(sys.argv[1]).glob(f"{drafter}-*.json"))]
    for drafter in ("auto", "none")
)
# One answer takes a second or two, and a second is soon disturbed.
fast, slow = (
    statistics.median(answer["timings"]["predicted_per_second"] for answer in answers) for answers in (drafted, plain)
)
same = "the same text" if drafted[0]["tokens"] == plain[0]["tokens"] else "another text (docs/benchmarks.md, The same text)"
chance = "" if any(answer["timings"]["draft_n"] for answer in drafted) else " (by chance: nothing was drafted)"
speeds = f"{fast:.0f} tokens per second with drafting, {slow:.0f} with plain decoding"
print(f"\n{speeds}: {fast / slow:.2f} times{chance}, {same}")
PYTHON
}

set_up ""
forget_settings
results=$(mktemp -d)
clean_up_with "rm -rf '$results'"

say "A text that repeats itself, as so small a model soon does: here drafting pays."
answer "Write out all five verses of the song Old MacDonald Had a Farm."
say ""
say "A text that does not: here edgespec drafts little or nothing."
answer "Tell me in a few sentences why the sea is salty."
say ""
say "Next: .venv/bin/edgespec chat, or .venv/bin/edgespec --help"
