"""What one run learned the next one begins with, and a spoilt file is no more than a line in the log."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from edgespec import Engine, load
from edgespec.backend import build_name, devices, gpus
from edgespec.bench.results import origin
from edgespec.core import Draft
from edgespec.engine.profile_store import ProfileStore
from edgespec.policy.acceptance import Acceptance
from edgespec.policy.adaptive import AdaptivePolicy
from edgespec.system.cpu import cpu_name
from tests.gguf_files import tiny_model
from tests.present import present

SETTINGS: dict[str, Any] = {"threads": 2, "gpu_layers": -1}


def adaptive(engine: Engine) -> AdaptivePolicy:
    """The policy of an engine that drafts."""
    assert isinstance(engine.policy, AdaptivePolicy)
    return engine.policy


def learned(right: int = 9, wrong: int = 3, drafter: str = "small") -> Acceptance:
    acceptance = Acceptance()
    for said in [1] * right + [2] * wrong:
        acceptance.observe(Draft.chain([1], [0.5], [(7, False)], drafter), [said])
    return acceptance


def recalled(cache: Path, *fingerprints: str) -> float:
    target, drafter = fingerprints
    acceptance = Acceptance()
    ProfileStore(cache, target, **SETTINGS).load_acceptance(acceptance, "small", drafter)
    return acceptance.estimate("small", (7, False), 0.5)


def test_how_good_a_models_guesses_are_is_kept_for_each_pair(tmp_path: Path) -> None:
    known = learned()
    ProfileStore(tmp_path, "target", **SETTINGS).save_acceptance(known, "small", "drafter")
    assert 0.5 < recalled(tmp_path, "target", "drafter") <= known.estimate("small", (7, False), 0.5)
    assert recalled(tmp_path, "target", "other") == recalled(tmp_path, "drafter", "target") == 0.5


def test_nothing_learned_replaces_nothing(tmp_path: Path) -> None:
    measured = ProfileStore(tmp_path, "target", **SETTINGS)
    measured.save_acceptance(learned(), "small", "drafter")
    measured.save_acceptance(Acceptance(), "small", "drafter")
    assert recalled(tmp_path, "target", "drafter") > 0.5


@pytest.mark.parametrize(
    "text", ["", "[", "[]", "5", '{"kinds": 5}', '{"kinds": [[[7, false], 9, 1e999]]}', '{"ratios": {}}']
)
def test_a_spoilt_or_foreign_file_is_left_aside(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    ProfileStore(tmp_path, "target", **SETTINGS).save_acceptance(learned(), "small", "drafter")
    (stored,) = (tmp_path / "acceptance").iterdir()
    stored.write_text(text)
    assert recalled(tmp_path, "target", "drafter") == 0.5
    assert str(stored) in caplog.text


@pytest.mark.parametrize("stored", ['{"single_seconds": 1%s, "ratios": {}}' % ("0" * 400), "{}", "3"])
def test_a_spoilt_curve_is_left_aside(tmp_path: Path, stored: str, caplog: pytest.LogCaptureFixture) -> None:
    measured = ProfileStore(tmp_path, "target", **SETTINGS)
    cost = measured.latency(64)
    cost.observe(1, 0.1)
    measured.save(cost)
    assert measured.latency(64).known
    (path,) = (tmp_path / "costs").iterdir()
    path.write_text(stored)
    assert not measured.latency(64).known
    assert str(path) in caplog.text


def test_a_curve_of_long_contexts_is_kept_where_there_were_no_others(tmp_path: Path) -> None:
    measured = ProfileStore(tmp_path, "target", **SETTINGS)
    cost = measured.latency(64)
    cost.for_context(5000).observe(1, 0.1)
    measured.save(cost)
    assert measured.latency(64).for_context(5000).t1 == pytest.approx(0.1)


def test_an_engine_remembers_its_drafter_when_it_is_closed(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    for known in (False, True):
        with load(model, n_ctx=128, drafter=str(model), cache_dir=tmp_path) as engine:
            (drafter,) = engine.drafters
            estimate = adaptive(engine).acceptance.estimate(drafter.name, (7, False), 0.5)
            assert (estimate != 0.5) is known
            adaptive(engine).acceptance = learned(drafter=drafter.name)


def test_a_model_that_stays_when_the_drafter_changes_goes_on_with_what_was_learned_of_it(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    with load(model, n_ctx=128, drafter=str(model), cache_dir=tmp_path) as engine:
        (drafter,) = engine.drafters
        adaptive(engine).acceptance = learned(drafter=drafter.name)
        engine.change_drafter(f"suffix+{model}")
        assert adaptive(engine).acceptance.estimate(drafter.name, (7, False), 0.5) != 0.5


def test_so_are_its_times(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    with load(model, n_ctx=128, drafter=str(model), cache_dir=tmp_path) as engine:
        present(engine.drafters[0].latency).measure({1: 0.25, 2: 0.5})
        engine.change_drafter(f"suffix+{model}")
        cost = present(engine.drafters[1].latency)
        assert cost.t1 == pytest.approx(0.25)
        cost.measure({1: 0.125})
    with load(model, n_ctx=128, drafter=str(model), cache_dir=tmp_path) as engine:
        assert present(engine.drafters[0].latency).t1 == pytest.approx(0.125), "the one before did not write over it"


def test_who_learned_nothing_overwrites_nobody(tmp_path: Path) -> None:
    first = ProfileStore(tmp_path, "target", **SETTINGS)
    cost = first.latency(8)
    cost.measure({1: 1.0, 8: 2.0})
    first.save(cost)
    first.save_acceptance(learned(), "small", "drafter")
    idle = ProfileStore(tmp_path, "target", **SETTINGS)
    found, known = idle.latency(8), Acceptance()
    idle.load_acceptance(known, "small", "drafter")
    cost.measure({1: 0.5, 8: 4.0})
    first.save(cost)
    better = learned(right=90)
    first.save_acceptance(better, "small", "drafter")
    stored = recalled(tmp_path, "target", "drafter")
    idle.save(found)
    idle.save_acceptance(known, "small", "drafter")
    assert ProfileStore(tmp_path, "target", **SETTINGS).latency(8).ratio(8) == pytest.approx(8.0)
    assert recalled(tmp_path, "target", "drafter") == stored > known.estimate("small", (7, False), 0.5)
    found.observe(1, 2.0)
    idle.save(found)
    assert ProfileStore(tmp_path, "target", **SETTINGS).latency(8).ratio(8) == pytest.approx(2.0)


def test_times_on_a_gpu_are_not_those_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cards in ((), ("one (X0)",), ("two (X0)",), ("one (X0)", "two (X1)")):
        monkeypatch.setattr("edgespec.engine.profile_store.gpus", lambda cards=cards: cards)
        measured = ProfileStore(tmp_path, "target", **SETTINGS)
        cost = measured.latency(64)
        assert not cost.known
        cost.observe(1, 0.1)
        measured.save(cost)
        assert measured.latency(64).known
    key = (cpu_name(), build_name(), "target", *SETTINGS.values(), "f16", "auto")
    without = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    assert (tmp_path / "costs" / f"{without}.json").is_file(), "what was remembered before GPUs counted still is"


def test_a_models_times_as_a_drafter_are_not_those_as_a_target(tmp_path: Path) -> None:
    """It makes logits for one row only."""
    target, drafter = (ProfileStore(tmp_path, "small", **SETTINGS, drafts=drafts) for drafts in (False, True))
    cost = target.latency(64)
    cost.observe(1, 0.1)
    target.save(cost)
    assert target.latency(64).known and not drafter.latency(64).known


def test_results_name_the_gpus_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    for cards in ((), ("one (X0)",)):
        monkeypatch.setattr("edgespec.bench.results.gpus", lambda cards=cards: cards)
        machine = origin("test", [], [])["machine"]
        assert machine.get("gpus", []) == list(cards) and set(machine) - {"gpus"} == {"cpu", "cores", "system"}


def test_ggml_tells_its_devices() -> None:
    (cpu,) = devices._device_texts(0)
    assert cpu.endswith(" (CPU)") and len(cpu) > len(" (CPU)")
    assert cpu not in gpus()


def test_a_library_without_a_list_of_devices_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "libggml", object())
    assert list(devices._device_texts(0, 1, 2)) == []
