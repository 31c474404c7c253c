"""Whether a load fits into memory: said before, with the context that fits."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import edgespec
from edgespec.backend import LlamaModel
from edgespec.cli import main
from edgespec.engine import plan
from edgespec.engine.fit import Fit, size_text
from edgespec.engine.options import EngineOptions
from edgespec.errors import InvalidRequest
from edgespec.gguf.footprint import Footprint
from edgespec.system.memory import FreeMemory
from tests.gguf_files import tiny_model

GB = 10**9
LOADING = importlib.import_module("edgespec.engine.load")  # the package has the function of that name
MODEL = Footprint("m.gguf", 5 * GB, 100_000, 16_384, 16_384, certain=True, n_ctx_train=131_072, n_ctx_scaled=131_072)
DRAFTER = Footprint("d.gguf", GB // 2, 100_000, 2048, 2048, certain=True, n_ctx_train=4096, n_ctx_scaled=4096)


def fit(n_ctx: int, available: float, most: float | None = None, models: tuple[Footprint, ...] = (MODEL,)) -> Fit:
    return Fit(models, n_ctx, "f16", FreeMemory(available, available if most is None else most))


def warnings(checked: Fit, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    checked.check()
    return [record.getMessage() for record in caplog.records]


def test_what_fits_needs_no_word(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(fit(8192, 6 * GB), caplog) == []
    assert warnings(fit(8192, math.inf), caplog) == []


def test_what_is_short_gets_a_line_with_the_context_that_fits(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(fit(65_536, 8 * GB), caplog) == [
        "m.gguf may not fit: with --ctx 65536 it takes about 9.4 GB (weights 5.0 GB, KV cache 4.3 GB), and 8.0 GB of "
        "memory are free; --ctx 44544 fits"
    ]


def test_weights_alone_that_do_not_fit_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = warnings(fit(8192, 4 * GB), caplog)
    assert line.endswith("4.0 GB of memory are free; choose a smaller model, or close other programs")


def test_a_kv_cache_that_cannot_fit_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        fit(131_072, 6 * GB, 8 * GB).check()
    assert str(refused.value) == (
        "m.gguf does not fit: the KV cache of --ctx 131072 takes 8.6 GB, and 8.0 GB of memory are free; "
        "--ctx 14080 fits"
    )


def test_swap_space_and_doubt_are_not_refused(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings(fit(131_072, 6 * GB, 9 * GB), caplog)
    doubtful = Footprint("m.gguf", GB, 1000, 16_384, 16_384, certain=False, n_ctx_train=1, n_ctx_scaled=1)
    assert warnings(fit(131_072, GB, models=(doubtful,)), caplog)


def test_a_drafter_counts_with_the_context_that_it_gets(caplog: pytest.LogCaptureFixture) -> None:
    alone, both = fit(65_536, 9.5 * GB), fit(65_536, 9.5 * GB, models=(MODEL, DRAFTER))
    assert warnings(alone, caplog) == []
    assert both.kv_cache - alone.kv_cache == DRAFTER.kv_cache(4096, (1, 1))
    (line,) = warnings(both, caplog)
    assert line.startswith("m.gguf with d.gguf may not fit")


@given(st.integers(1, 10**11), st.integers(8, 1 << 20), st.booleans())
def test_the_longest_context_fits_and_a_longer_one_does_not(available: int, limit: int, drafting: bool) -> None:
    models = (MODEL, DRAFTER) if drafting else (MODEL,)
    longest = fit(8192, available, models=models).longest(limit)
    assert 0 <= longest <= limit
    assert longest % 256 == 0
    assert not longest or fit(longest, available, models=models).fits
    assert longest + 256 > limit or not fit(longest + 256, available, models=models).fits


@pytest.mark.parametrize(
    ("size", "shown"), [(98e6, "98 MB"), (999e6, "999 MB"), (1.25e9, "1.2 GB"), (math.inf, "an unk")]
)
def test_sizes_for_people(size: float, shown: str) -> None:
    assert size_text(size).startswith(shown)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": "{{ messages[0].content }}"})


def run(tiny: Path, *arguments: str, command: str = "generate") -> Any:
    prompt = ("-p", "hello", "-n", "4") if command == "generate" else ()
    return CliRunner().invoke(main, [command, "-m", str(tiny), "--threads", "1", *prompt, *arguments])


def test_a_load_says_it_first_and_goes_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda: FreeMemory(3_500_000, 10**9))
    result = run(tiny, "--ctx", "65536")
    assert result.exit_code == 0
    assert "tiny.gguf may not fit: with --ctx 65536" in result.stderr
    assert result.stderr.count("may not fit") == 1


def test_a_load_that_cannot_fit_ends_before_it_begins(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda: FreeMemory(3_500_000, 3_500_000))
    monkeypatch.setattr(LOADING, "check_loads", lambda *_, **__: pytest.fail("it was loaded"))
    result = run(tiny, "--ctx", "65536")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "tiny.gguf does not fit" in result.stderr


def test_weights_stay_in_their_file_where_a_copy_would_not_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pages of the file can be dropped and read again, copies cannot."""
    repacked: list[bool] = []

    def loaded(path: Path, *, repack: bool, **options: Any) -> LlamaModel:
        repacked.append(repack)
        return LlamaModel(path, repack=repack, **options)

    monkeypatch.setattr(LOADING, "LlamaModel", loaded)
    monkeypatch.setattr("edgespec.engine.open_drafter.LlamaModel", loaded)
    drafter = tmp_path / "drafter.gguf"
    drafter.write_bytes(tiny.read_bytes())
    for most in (10**9, 100_000):
        monkeypatch.setattr(plan, "free_memory", lambda most=most: FreeMemory(most, most))
        edgespec.load(tiny, drafter=drafter, n_ctx=256, threads=1, cache_dir=tmp_path).close()
    assert repacked == [True, True, False, False], "the target's and the drafter's"


def test_what_is_known_of_repacked_weights_is_not_used_for_others(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They round otherwise: neither exact rows nor a saved state hold for both."""
    settings: list[str] = []
    for most in (10**9, 100_000):
        monkeypatch.setattr(plan, "free_memory", lambda most=most: FreeMemory(most, most))
        with edgespec.load(tiny, n_ctx=256, threads=1, exact=True, cache_dir=tmp_path) as engine:
            settings.append(engine.context.settings)
    assert settings[1] == f"{settings[0]}; weights as in the file"
    assert len(list((tmp_path / "exact").iterdir())) == 2


def test_a_gpus_memory_is_not_looked_at(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "gpus", lambda: ("A card",))
    assert plan.plan_load(EngineOptions(tiny, cache_dir=tmp_path)).fit is None
    assert plan.plan_load(EngineOptions(tiny, gpu_layers=0, cache_dir=tmp_path)).fit is not None


@pytest.mark.parametrize(("arguments", "said"), [(["--ctx", "1024"], 1), (["--ctx", "512"], 0), ([], 0)])
def test_a_context_beyond_the_training_gets_a_line(tiny: Path, arguments: list[str], said: int) -> None:
    result = run(tiny, *arguments)
    assert result.exit_code == 0
    assert result.stderr.count("--ctx 1024: tiny.gguf was trained for 512 tokens") == said


def test_the_doctor_shows_it(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "free_memory", lambda: FreeMemory(2 * GB, 2 * GB))
    memory = json.loads(run(tiny, "--json", command="doctor").stdout)["memory"]
    assert memory["total"] == memory["weights"] + memory["kv_cache"] + memory["buffers"]
    assert (memory["context"], memory["free"], memory["longest_context"]) == (512, 2 * GB, 512)
    assert "2.0 GB were free before the load; up to --ctx 512 fits" in run(tiny, command="doctor").stdout
