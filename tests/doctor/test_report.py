"""What the doctor says follows from what it measured."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgespec import load
from edgespec.cli import main
from edgespec.core import Context
from edgespec.doctor.measure import MIN_SPEED_UP, SIZES, DrafterCost, advice, outlook, speed_up, timed
from edgespec.engine.exact import probe_tokens
from edgespec.errors import UnsupportedModel
from edgespec.gguf.metadata import strings
from edgespec.gguf.reader import walk
from edgespec.policy.adaptive import MAX_DRAFT
from edgespec.system.cpu import CpuUse, cores, cpu_name
from edgespec.testing import TableModel
from edgespec.vocabtrim.counts import Counts, tokenizer_hash
from edgespec.vocabtrim.pipeline import trim
from tests.gguf_files import tiny_model
from tests.present import present


def test_a_speed_up_is_that_of_the_formula() -> None:
    assert speed_up(3, 1.0, 2.0, 0.0) == 2.0
    assert speed_up(3, 0.0, 2.0, 0.0) == 0.5
    assert speed_up(2, 0.5, 1.0, 0.25) == pytest.approx(1.75 / 1.5)


curves = st.floats(0.01, 1.2).map(lambda slope: {n: 1 + slope * (n - 1) for n in SIZES})


@given(curves, st.floats(0, 1))
def test_from_the_break_even_on_it_pays_and_before_it_does_not(ratios: dict[int, float], token_cost: float) -> None:
    found = outlook(ratios, token_cost)

    def best(acceptance: float) -> float:
        drafted = {n: ratio for n, ratio in ratios.items() if n <= MAX_DRAFT + 1}
        return max(speed_up(n - 1, acceptance, ratio, token_cost) for n, ratio in drafted.items())

    assert found.best == best(1.0) == speed_up(found.size, 1.0, ratios[found.size + 1], token_cost)
    if found.break_even is None:
        assert best(1.0) < MIN_SPEED_UP
    else:
        assert best(found.break_even) >= MIN_SPEED_UP
        assert found.break_even == 0.01 or best(found.break_even - 0.01) < MIN_SPEED_UP


def test_the_advice_says_when_nothing_can_pay() -> None:
    said = " ".join(advice({n: float(n) for n in SIZES}, {"small": DrafterCost(0.2, 2.0)}))
    assert "cannot pay here" in said and "small" not in said
    prices = {"small": DrafterCost(0.2, 2.5), "large": DrafterCost(1.5, 20.0)}
    said = " ".join(advice({n: 1 + 0.1 * (n - 1) for n in SIZES}, prices))
    assert "can pay" in said and "small pays" in said and "large cannot pay" in said
    assert "for 2.5 T(1)" in said


def test_every_size_is_timed_after_the_same_context() -> None:
    model = TableModel()
    counted = []
    times, _ = timed(model, probe_tokens(32), depth=100, progress=lambda done, total: counted.append((done, total)))
    assert tuple(times) == SIZES and all(seconds > 0 for seconds in times.values())
    assert model.widths[:2] == [101, 1] and tuple(model.widths[1 : 1 + len(SIZES)]) == SIZES
    assert counted[-1][0] == counted[-1][1] == len(counted)


@pytest.mark.parametrize(
    ("everybody", "ours", "cores", "crowded"),
    [
        (20.0, 19.5, 2, False),  # both cores are ours
        (20.0, 11.0, 2, True),  # another program has one
        (15.0, 15.0, 2, False),
        (50.0, 40.0, 8, False),  # another one has a core that was free
        (20.0, 0.5, 2, True),
        (None, 20.0, 2, False),  # nobody tells
    ],
)
def test_other_programs_on_the_same_cores_are_noticed(
    everybody: float | None, ours: float, cores: int, crowded: bool
) -> None:
    """However steadily they run: rounds that are all slow do not differ."""
    before = CpuUse(100.0, None if everybody is None else 1000.0, 50.0)
    after = CpuUse(110.0, None if everybody is None else 1000.0 + everybody, 50.0 + ours)
    assert before.crowded(after, cores) is crowded


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_what_everybody_used_includes_us() -> None:
    before = CpuUse.now()
    while time.process_time() - before.own < 0.3:
        pass
    after = CpuUse.now()
    assert present(after.total) - present(before.total) >= 0.8 * (after.own - before.own)


def test_a_busy_machine_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgespec.system.cpu._busy_seconds", lambda: None)
    for busy in (False, True):
        pace = itertools.cycle([1.0, 3.0, 3.0, 1.0, 3.0, 1.0, 3.0] if busy else [1.0])
        seconds = itertools.accumulate(step for _ in itertools.count() for step in (0.0, next(pace)))
        monkeypatch.setattr(
            "edgespec.doctor.measure.time", SimpleNamespace(perf_counter=lambda seconds=seconds: next(seconds))
        )
        assert timed(TableModel(n_ctx=130), probe_tokens(32), depth=100).busy == busy
    assert "busy" in next(advice({1: 1.0, 2: 1.1}, {}, busy=True))


def test_sizes_beyond_the_context_are_left_out() -> None:
    assert tuple(timed(TableModel(n_ctx=110), probe_tokens(32), depth=100).seconds) == (1, 2, 3, 4, 5, 6, 8)


def test_the_command_measures_and_remembers(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    calm(monkeypatch)
    tiny_model(tmp_path / "tiny.gguf")
    result = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["n"] for row in found["curve"]] == list(SIZES) and found["exact"]["rows"] >= 1
    assert found["advice"] and list((home / "cache" / "edgespec" / "costs").glob("*.json"))
    shown = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"])
    assert shown.exit_code == 0 and "best speed-up" in shown.stdout and "--exact" in shown.stdout
    assert f"on {cpu_name()}: {cores()} cores, 1 threads" in shown.stdout
    assert "times as long, and reading a prompt" in shown.stdout and "GPU" not in shown.stdout


def examined(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1", "--json", *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_drafter_is_timed_on_ids_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fewer = tiny_model(tmp_path / "fewer.gguf", n_vocab=300)
    counts = Counts("text", tokenizer_hash(walk(fewer)))
    counts.add(range(20, 60))
    trim(fewer, tmp_path / "trimmed.gguf", [counts], size=64)
    texts = [*map(bytes.decode, strings(walk(fewer), "tokenizer.ggml.tokens")), *(f"[PAD{n}]" for n in range(300, 336))]
    tiny_model(tmp_path / "tiny.gguf", n_vocab=336, metadata={"tokenizer.ggml.tokens": texts})
    found = examined("-d", "fewer.gguf+trimmed.gguf")
    assert [drafter["name"] for drafter in found["drafters"]] == ["fewer", "trimmed"]
    assert all(drafter["reading_ms"] >= drafter["ms"] > 0 for drafter in found["drafters"])


def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs here: figures of a busy machine are not remembered."""
    monkeypatch.setattr(
        "edgespec.doctor.report.timed", lambda *arguments, **options: timed(*arguments, **options)._replace(busy=False)
    )


def test_what_is_exact_is_found_out_once_and_for_answers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    tested = []

    def five(context: Context, tokens: Sequence[int], progress: Callable[[int, int], None]) -> int:
        tested.append(context)
        return 5

    monkeypatch.setattr("edgespec.engine.profile_store.exact_rows", five)
    calm(monkeypatch)
    found = examined(), examined("--exact")
    assert [row["exact"]["rows"] for row in found] == [5, 5] and len(tested) == 1
    assert found[0]["curve"][-1]["n"] == SIZES[-1] and found[1]["curve"][-1]["n"] == 5
    assert all(row["exact"]["single"] > 0 and row["exact"]["reading"] > 0 for row in found)
    with load("tiny.gguf", drafter="suffix", exact=True, threads=1) as engine:
        assert engine.context.max_rows == 5 and engine.latency.known and len(tested) == 1


def test_a_model_that_cannot_take_tokens_back_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr("edgespec.backend.LlamaModel.can_rewind", False)
    result = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"])
    assert result.exit_code == 1 and not result.stdout
    assert "speculation cannot pay" in result.stderr.splitlines()[-1]


def test_a_machine_where_exact_is_not_possible_is_told_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedModel("no such keys")

    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr("edgespec.doctor.report._exact_report", refuse)
    assert examined()["exact"] == {"rows": 1, "hindrance": "no such keys"}
    shown = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"])
    assert "--exact is not possible here: no such keys" in shown.stdout and "best speed-up" in shown.stdout


@pytest.mark.parametrize("columns", [40, 200])
def test_the_plot_fits_into_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr(
        "edgespec.doctor.report._exact_report", lambda *_: ({"rows": 1, "single": 1.0, "reading": 1.0}, False)
    )
    shown = CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"])
    plot = [line for line in shown.stdout.splitlines() if "▇" in line]
    assert len(plot) == len(SIZES) and max(map(len, plot)) == min(columns, 71)


def test_gpus_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr("edgespec.doctor.report.gpus", lambda: ("A card (X0)", "A card (X1)"))
    assert examined()["gpus"] == ["A card (X0)", "A card (X1)"]
    shown = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"]).stdout
    assert "GPU: A card (X0)\nGPU: A card (X1)\n" in shown
