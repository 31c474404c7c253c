#!/bin/sh
# Sets edgespec up in .venv and shows what it does: the same text in less time, with a model of 135 million parameters.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

# answer PROMPT: streams the answer with drafting, then sets the speed beside that of plain decoding.
answer() {
    printf '\n> %s\n\n' "$1"
    .venv/bin/edgespec generate -d auto --stats -n 200 -p "$1" </dev/null
    for round in 1 2 3; do
        for drafter in auto none; do
            .venv/bin/edgespec generate -d "$drafter" --json -n 200 -p "$1" </dev/null >"$results/$drafter-$round.json"
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
# One answer takes a second or two, and a second is soon disturbed: where the rounds overlap, a ratio would be noise.
fast, slow = (
    sorted(answer["timings"]["predicted_per_second"] for answer in answers) for answers in (drafted, plain)
)
same = "The text is the same" if drafted[0]["tokens"] == plain[0]["tokens"] else "The text differs (docs/exactness.md)"
speeds = f"{statistics.median(fast):.0f} tokens per second with drafting and {statistics.median(slow):.0f} without"
if not any(answer["timings"]["draft_n"] for answer in drafted):
    verdict = "nothing was drafted, so the speed is that of plain decoding"
elif fast[0] > slow[-1] or slow[0] > fast[-1]:
    verdict = f"{speeds}: {statistics.median(fast) / statistics.median(slow):.2f} times as fast"
else:
    verdict = f"{speeds}, which three rounds cannot tell apart"
print(f"\n{same}; {verdict}.")
PYTHON
}

set_up ""
forget_settings
results=$(mktemp -d)
clean_up_with "rm -rf '$results'"

say "A letter with a mistake in it (wil). Nearly all of the answer can be copied, so edgespec drafts:"
answer "Correct the mistakes in this letter:

Dear Mrs. Carter,

Thank you for your letter of 3 May. The kitchen table that you ordered wil be ready on Friday. Our driver will bring it to your house between nine and twelve. Please make sure that somebody is at home to open the door. If that day does not suit you, please call us by Wednesday. You can pay the driver in cash or by card.

Yours sincerely,
Tom Baker"
say ""
say "A question whose answer cannot be copied. Here edgespec drafts little or nothing:"
answer "Tell me in a few sentences why the sea is salty."
say ""
say "Next: .venv/bin/edgespec chat, or .venv/bin/edgespec --help"
