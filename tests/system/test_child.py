"""Children that say something, die, or do not start; and that take their own children with them."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from edgespec.errors import EvaluationError
from edgespec.system import child
from edgespec.system.child import ChildEnd


def _python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", program)


def test_every_line_is_passed_on_and_the_last_one_kept() -> None:
    lines: list[str] = []
    ended = child.run(_python("print('one'); print('tw\\x1bo\\tthree'); print(); print()"), lines.append)
    assert ended == ChildEnd(0, "tw o three"), "the last that is not empty"
    assert lines == ["one", "tw o three", "", ""]


def test_what_goes_to_stderr_is_passed_on_too() -> None:
    assert child.run(_python("import sys; sys.stderr.write('no memory')")) == ChildEnd(0, "no memory")


def test_bytes_that_are_no_text_and_a_line_without_an_end() -> None:
    ended = child.run(_python("import sys; sys.stdout.buffer.write(b'\\xff caf\\xc3\\xa9')"))
    assert ended == ChildEnd(0, "� café")


def test_the_exit_status_and_the_reason() -> None:
    ended = child.run(_python("import sys; print('no memory'); sys.exit(7)"))
    assert ended == ChildEnd(7, "no memory")
    assert ended.how == "exit status 7: no memory"


def test_a_child_that_is_killed() -> None:
    ended = child.run(_python("import os; os.kill(os.getpid(), 9)"))
    assert ended.status == -9
    assert ended.how == f"signal 9, {signal.strsignal(9)}"


@pytest.mark.parametrize(
    ("ended", "how"),
    [
        (ChildEnd(1, ""), "exit status 1"),
        (ChildEnd(1, "/home/me/ggml/src/ggml.c:12: no way"), "exit status 1: ggml.c:12: no way"),
        (ChildEnd(1, "see /tmp/file"), "exit status 1: see /tmp/file"),
    ],
)
def test_how_a_child_ended_names_no_folder_of_the_machine_it_was_built_on(ended: ChildEnd, how: str) -> None:
    assert ended.how == how


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(EvaluationError, match="no process can be started: No such file"):
        child.run(("/no/such/program",))


def test_it_gets_no_input_and_runs_where_the_package_is() -> None:
    lines: list[str] = []
    child.run(_python("import os, sys; print(repr(sys.stdin.read())); print(os.getcwd())"), lines.append)
    assert lines == ["''", str(child.IMPORT_ROOT)]


def test_where_it_is_interrupted_it_and_its_children_end() -> None:
    """The grandchild holds the pipe: had it lived on, its end would never come."""
    program = (
        "import os, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), inner.pid, flush=True)\n"
        "time.sleep(600)"
    )
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.extend(map(int, line.split()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        child.run(_python(program), interrupt)
    parent, grandchild = pids
    with pytest.raises(ProcessLookupError):
        os.kill(parent, 0)
    if Path("/proc/self/stat").exists():
        assert _is_over(grandchild)


def _is_over(pid: int) -> bool:
    """Dead, or about to be: SIGKILL is carried out when the process gets its turn."""
    for _ in range(10_000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        os.sched_yield()
    return False


def test_a_module_of_ours_is_run_by_its_name() -> None:
    ended = child.run(child.program("edgespec.no_such_module"))
    assert ended.status == 1
    assert "edgespec.no_such_module" in ended.line


def test_serving_answers_line_by_line_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def answer(**what: Any) -> dict[str, Any]:
        asked.append(what)
        return {"got": what["n"]}

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n": 1}\n{"n": "ä"}\n'))
    monkeypatch.setattr(sys, "stdout", out)
    child.serve_json_lines(answer)
    assert asked == [{"n": 1}, {"n": "ä"}]
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [{}, {"got": 1}, {"got": "ä"}]
