#!/bin/sh
# Everything a change must pass: style, types, tests. CI runs this very script. Arguments are passed on to pytest.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

set_up test
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
"$python" -m pytest "$@"
