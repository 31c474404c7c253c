#!/bin/sh
# Draws a chat as it looks in a terminal, for the README: sh tools/draw_chat.sh MODEL.gguf OUT.svg
# A real chat in tmux: two messages, the second of which asks for the first answer again with a change.
set -eu
[ $# -eq 2 ] || { echo "usage: sh tools/draw_chat.sh MODEL.gguf OUT.svg" >&2; exit 1; }
model=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
out=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
cd "$(dirname "$0")/.."
# shellcheck source=tools/_env.sh
. tools/_env.sh
set_up test  # which draws
first_working tmux >/dev/null || tmux -V >/dev/null 2>&1 || die "this needs tmux"

screen() { tmux -L edgespec-drawing "$@"; }

# answered COUNT: wait until so many answers have their line of figures.
answered() {
    for _ in $(seq 300); do
        [ "$(screen capture-pane -p -S -200 | grep -c 'tokens a block')" -lt "$1" ] || return 0
        sleep 1
    done
    die "the answer did not come within 5 minutes"
}

forget_settings
clean_up_with 'screen kill-server 2>/dev/null || true'
screen new-session -d -x 100 -y 48 "'$PWD/.venv/bin/edgespec' chat -m '$model' --ctx 2048 --private"
for _ in $(seq 120); do
    shown=$(screen capture-pane -p 2>/dev/null) || die "the chat ended; try: .venv/bin/edgespec chat -m $model"
    if echo "$shown" | grep -q '^>'; then break; fi
    sleep 1
done
screen send-keys "/set colour on" Enter
sleep 1
screen send-keys "Write a Python class Point with x, y, __repr__ and __eq__. Code only." Enter
answered 1
screen send-keys "The same with z as well." Enter
answered 2
screen capture-pane -p -e -S -200 | "$python" tools/draw_terminal.py "$out" "edgespec chat -m $(basename "$model")=cat"
