#!/bin/sh
# Sets edgespec up in .venv and shows what it does: the same text in less time, with a model of 135 million parameters.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

set_up ""
forget_settings
"$python" tools/demo.py
say ""
say "Next: .venv/bin/edgespec chat, or .venv/bin/edgespec --help"
