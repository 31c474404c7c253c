"""What the doctor says follows from what it measured."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from gguf_files import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from edgespec.cli import main
from edgespec.doctor import PAYS, SIZES, advice, outlook, speed_up, timed
from edgespec.exact import sample
from edgespec.testing import TableModel


def test_a_speed_up_is_that_of_the_formula():
    assert speed_up(3, 1.0, 2.0, 0.0) == 2.0
    assert speed_up(3, 0.0, 2.0, 0.0) == 0.5
    assert speed_up(2, 0.5, 1.0, 0.25) == pytest.approx(1.75 / 1.5)


curves = st.floats(0.01, 1.2).map(lambda slope: {n: 1 + slope * (n - 1) for n in SIZES})


@given(curves, st.floats(0, 1))
def test_from_the_break_even_on_it_pays_and_before_it_does_not(ratios, guess):
    found = outlook(ratios, guess)

    def best(acceptance):
        return max(speed_up(n - 1, acceptance, ratio, guess) for n, ratio in ratios.items())

    assert found.best == best(1.0) == speed_up(found.size, 1.0, ratios[found.size + 1], guess)
    if found.break_even is None:
        assert best(1.0) < PAYS
    else:
        assert best(found.break_even) >= PAYS
        assert found.break_even == 0.01 or best(found.break_even - 0.01) < PAYS


def test_the_advice_says_when_nothing_can_pay():
    said = " ".join(advice({n: float(n) for n in SIZES}, {"small": 0.2}))
    assert "cannot pay here" in said and "small" not in said
    said = " ".join(advice({n: 1 + 0.1 * (n - 1) for n in SIZES}, {"small": 0.2, "large": 1.5}))
    assert "can pay" in said and "small pays" in said and "large cannot pay" in said


def test_every_size_is_timed_after_the_same_context():
    model = TableModel()
    counted = []
    times, _ = timed(model, sample(32), depth=100, progress=lambda done, total: counted.append((done, total)))
    assert tuple(times) == SIZES and all(seconds > 0 for seconds in times.values())
    assert model.widths[:2] == [101, 1] and tuple(model.widths[1 : 1 + len(SIZES)]) == SIZES
    assert counted[-1][0] == counted[-1][1] == len(counted)


def test_a_busy_machine_is_noticed(monkeypatch):
    for busy in (False, True):
        pace = itertools.cycle([1.0, 3.0, 3.0, 1.0, 3.0, 1.0, 3.0] if busy else [1.0])
        seconds = itertools.accumulate(step for _ in itertools.count() for step in (0.0, next(pace)))
        monkeypatch.setattr("edgespec.doctor.time", SimpleNamespace(perf_counter=lambda seconds=seconds: next(seconds)))
        assert timed(TableModel(n_ctx=130), sample(32), depth=100).busy == busy
    assert "busy" in next(advice({1: 1.0, 2: 1.1}, {}, busy=True))


def test_sizes_beyond_the_context_are_left_out():
    assert tuple(timed(TableModel(n_ctx=110), sample(32), depth=100).of) == (1, 2, 3, 4, 5, 6, 8)


def test_the_command_measures_and_remembers(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "tiny.gguf")
    result = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [one["n"] for one in found["curve"]] == list(SIZES) and found["exact"]["rows"] >= 1
    assert found["advice"] and list((home / "cache" / "edgespec" / "costs").glob("*.json"))
    shown = CliRunner().invoke(main, ["doctor", "-m", "tiny.gguf", "--threads", "1"])
    assert shown.exit_code == 0 and "best speed-up" in shown.stdout and "--exact" in shown.stdout
