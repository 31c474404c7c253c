#!/bin/sh
# Everything a change must pass: style, types, tests. CI runs this very script. Arguments are passed on to pytest.
# COVERAGE=1 also measures which lines they run, which takes up to twice as long before Python 3.12.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh

set_up test
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
if [ -n "${COVERAGE:-}" ]; then
    "$python" -m coverage run -m pytest "$@"
    "$python" -m coverage report
else
    "$python" -m pytest "$@"
fi
