"""The prefix cache: with it, an answer and the KV cache are what they are without."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec import load
from edgespec.backend import PREFILL_CHUNK, LlamaContext, LlamaModel
from edgespec.core import Row, TokenSequence
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Session
from edgespec.engine import prefix_cache, prefix_files
from edgespec.engine.prefix_cache import PrefixCache, saving, worth_storing
from edgespec.engine.prefix_files import StoredPrefix, stored_prefixes
from edgespec.errors import InvalidRequest
from edgespec.system.memory import FreeMemory
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter
from tests.gguf_files import tiny_model, tiny_recurrent
from tests.present import present

N_CTX = 512
ROUNDING = 0.05
"""More than rounding moves a logit of the tiny models; a token that is not what it should be moves some by far more."""

WINDOWED = {"gemma3.attention.sliding_window": 64, "general.name": "windowed"}


@pytest.fixture(autouse=True)
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models read prompts in no time: their prefixes would not be stored."""
    _let_everything_pay(monkeypatch)


def _let_everything_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(prefix_cache, "DISK_SPEED", 1e15)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    model = LlamaModel(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    yield model
    model.close()


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """A model of which every layer but each sixth sees the last 64 tokens only."""
    path = tmp_path_factory.mktemp("windowed") / "windowed.gguf"
    model = LlamaModel(tiny_model(path, architecture="gemma3", metadata=WINDOWED))
    yield model
    model.close()


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    model = LlamaModel(tiny_recurrent(tmp_path_factory.mktemp("recurrent") / "recurrent.gguf"))
    yield model
    model.close()


class Recorder(KeyedSampler):
    """Greedy, and remembers every row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Row] = []

    def choose(self, row: Row, drafted: Sequence[int] = ()) -> int:
        self.rows.append(row.copy())
        return super().choose(row)


class Run:
    """A program's run: its context, with a prefix cache in `root` or without."""

    def __init__(
        self,
        model: LlamaModel,
        root: Path | None,
        *,
        aligned: bool = False,
        max_cuttable: int | None = None,
        kv_type: str = "f16",
        n_ctx: int = N_CTX,
    ) -> None:
        self.model = model
        self.context = LlamaContext(model, n_ctx=n_ctx, threads=1, kv_type=kv_type)
        self.cache = None
        if root is not None:
            self.cache = PrefixCache(
                root, self.context, {"settings": self.context.settings}, model="tiny",
                aligned=aligned, max_bytes=1 << 30,
                max_cuttable=model.max_cuttable if max_cuttable is None else max_cuttable,
            )  # fmt: skip

    def answer(
        self, prompt: list[int], *, count: int = 4, chunks: int | None = None, overflow: str = "stop"
    ) -> tuple[Session, Recorder]:
        """A finished answer; its prefill is cancelled after so many chunks."""
        sampler = Recorder()
        counter = itertools.count()

        def on_prefill(done: int, total: int) -> None:
            if next(counter) == chunks:
                session.cancel()

        tokens = TokenSequence(prompt)
        session = Session(
            self.context, self.model.vocabulary, sampler, FixedPolicy(ScriptedDrafter(lambda tokens, limit: ()), 0),
            tokens, GenerationOptions(max_tokens=count, overflow=overflow), keep=2, on_prefill=on_prefill,  # type: ignore[arg-type]
            prompt_store=self.cache.answer(tokens) if self.cache else None,
        )  # fmt: skip
        for _ in session.stream():
            pass
        if self.cache:
            self.cache.wait()
        return session, sampler

    def close(self) -> None:
        self.context.close()


def cached_of(model: LlamaModel, root: Path, prompt: list[int], **options: Any) -> int:
    """How many tokens of `prompt` a new run finds."""
    run = Run(model, root, **options)
    session, _ = run.answer(prompt)
    run.close()
    return session.tally.cached_tokens


def text_of(length: int, *changes: int) -> list[int]:
    """Tokens that differ from those of other `changes` from there on."""
    tokens = [3 + (7 * place + place // 11) % 300 for place in range(length)]
    for place in changes:
        tokens[place:] = [3 + (token + 1 + place) % 300 for token in tokens[place:]]
    return tokens


PIECES = st.lists(st.tuples(st.integers(0, 380), st.integers(0, 5)), min_size=1, max_size=2)
PROMPTS = st.tuples(st.integers(2, 400), PIECES).map(
    lambda drawn: text_of(drawn[0], *(place for place, which in drawn[1] if which and place < drawn[0]))
)


@pytest.mark.parametrize("mode", ["plain", "exact", "windowed", "recurrent", "other keys"])
@given(data=st.data())
@settings(max_examples=20)
def test_any_sequence_of_prompts_is_answered_as_without(
    tiny: LlamaModel,
    windowed: LlamaModel,
    recurrent: LlamaModel,
    tmp_path_factory: pytest.TempPathFactory,
    mode: str,
    data: st.DataObject,
) -> None:
    """Prompts that share beginnings, new runs, interrupted prefills and shifts: every row is that of a run without."""
    root = tmp_path_factory.mktemp("prefixes")
    model = {"windowed": windowed, "recurrent": recurrent}.get(mode, tiny)
    kv_type = "f32" if mode == "other keys" else "f16"
    start: Callable[[Path | None], Run] = lambda folder: Run(  # noqa: E731
        model, folder, aligned=mode == "exact", kv_type=kv_type, n_ctx=256 if mode == "plain" else N_CTX
    )
    runs = [start(root), start(None)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        _let_everything_pay(monkeypatch)
        for _ in range(data.draw(st.integers(1, 4))):
            if data.draw(st.booleans()):
                for run in runs:
                    run.close()
                runs = [start(root), start(None)]
            prompt = data.draw(PROMPTS)[: runs[0].context.n_ctx - 8]
            chunks = data.draw(st.none() | st.integers(0, 3))
            shifts = {"count": 30, "overflow": "shift"} if mode == "plain" and data.draw(st.booleans()) else {}
            shifted = any(run.context.cached(prompt) > run.context.unshifted for run in runs)  # those rows are others
            (kept, rows), (plain, plain_rows) = (run.answer(prompt, chunks=chunks, **shifts) for run in runs)  # type: ignore[arg-type]
            if "cancelled" not in (kept.finish_reason, plain.finish_reason) and not (shifts or shifted):
                for row, plain_row in zip(rows.rows, plain_rows.rows, strict=True):
                    if mode == "exact":
                        assert np.array_equal(row, plain_row)
                    else:
                        assert np.abs(row - plain_row).max() < ROUNDING
                assert mode != "exact" or kept.emitted == plain.emitted
        for stored in stored_prefixes(root):
            assert_true(stored, runs[0], kv_type)
    for run in runs:
        run.close()


def assert_true(stored: StoredPrefix, run: Run, kv_type: str) -> None:
    """A stored state is what its tokens make of a context."""
    assert run.cache is not None
    found = run.cache.folder.read(stored)
    assert found is not None
    restored, fresh = (LlamaContext(run.model, n_ctx=N_CTX, threads=1, kv_type=kv_type) for _ in range(2))
    assert restored.set_state(*found)
    tokens = [*found[0], 7]
    difference = present(restored.prefill(tokens)) - present(fresh.prefill(tokens))
    assert np.abs(difference).max() < ROUNDING
    restored.close()
    fresh.close()


def test_a_prompt_is_read_once(tiny: LlamaModel, tmp_path: Path) -> None:
    prompt = text_of(300)
    assert [cached_of(tiny, tmp_path, prompt) for _ in range(3)] == [0, 299, 299]
    assert cached_of(tiny, tmp_path, text_of(300, 200)) == 200
    assert cached_of(tiny, tmp_path, text_of(300, 20)) == 0
    assert cached_of(tiny, tmp_path, [*prompt, *text_of(150)]) == 300


def test_exact_prefixes_end_where_a_chunk_ends(tiny: LlamaModel, tmp_path: Path) -> None:
    prompt = text_of(300)
    assert [cached_of(tiny, tmp_path, prompt, aligned=True) for _ in range(2)] == [0, 2 * PREFILL_CHUNK]
    assert cached_of(tiny, tmp_path, text_of(300, 200), aligned=True) == PREFILL_CHUNK
    run = Run(tiny, tmp_path, aligned=True)
    run.answer(text_of(40))
    session, _ = run.answer(prompt)
    assert session.tally.cached_tokens == 40, "what this run has read already stays: the split has to be the same"
    run.close()


@pytest.mark.parametrize("kind", ["recurrent", "windowed"])
def test_a_state_that_cannot_be_cut_is_used_whole(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    model: LlamaModel = request.getfixturevalue(kind)
    prompt = text_of(400)
    assert [cached_of(model, tmp_path, prompt) for _ in range(2)] == [0, 3 * PREFILL_CHUNK]
    assert cached_of(model, tmp_path, text_of(400, 300)) == 2 * PREFILL_CHUNK
    assert cached_of(model, tmp_path, text_of(400, 200)) == 0


@pytest.mark.parametrize("aligned", [False, True])
def test_what_was_read_before_ctrl_c_is_kept(tiny: LlamaModel, tmp_path: Path, aligned: bool) -> None:
    run = Run(tiny, tmp_path, aligned=aligned)
    session, _ = run.answer(text_of(500), chunks=3)
    assert session.finish_reason == "cancelled"
    run.close()
    assert cached_of(tiny, tmp_path, text_of(500), aligned=aligned) == 3 * PREFILL_CHUNK


def test_what_a_shift_left_behind_is_not_stored(tiny: LlamaModel, tmp_path: Path) -> None:
    run = Run(tiny, tmp_path, n_ctx=256)
    prompt = text_of(250)
    session, _ = run.answer(prompt, count=20, overflow="shift")
    assert session.tally.dropped_tokens
    after = list(session._tokens)
    longer = [*after, *text_of(60)]
    session, _ = run.answer(longer)
    assert session.tally.cached_tokens > 64
    run.close()
    assert [stored.tokens for stored in stored_prefixes(tmp_path)] == [prompt]


def test_a_state_of_an_unknown_past_is_not_stored(tiny: LlamaModel, tmp_path: Path) -> None:
    """A session's file does not say whether its context was shifted."""
    run, other = Run(tiny, tmp_path), Run(tiny, None)
    other.answer(text_of(100))
    assert run.context.set_state(*other.context.state())
    assert run.context.unshifted == 0
    run.answer(text_of(200))
    assert stored_prefixes(tmp_path) == []
    run.context.rewind(0)
    run.answer(text_of(200))
    assert len(stored_prefixes(tmp_path)) == 1
    run.close()
    other.close()


def test_a_damaged_file_is_read_over(tiny: LlamaModel, tmp_path: Path) -> None:
    prompt = text_of(300)
    cached_of(tiny, tmp_path, prompt)
    (stored,) = stored_prefixes(tmp_path)
    stored.path.write_bytes(stored.path.read_bytes()[:-4] + b"????")
    assert [cached_of(tiny, tmp_path, prompt) for _ in range(2)] == [0, 299]


def test_a_longer_state_than_the_context_is_left_alone(tiny: LlamaModel, tmp_path: Path) -> None:
    cached_of(tiny, tmp_path, text_of(400))
    run = Run(tiny, tmp_path, n_ctx=256)
    session, _ = run.answer(text_of(200))
    assert session.tally.cached_tokens == 0
    run.close()
    assert 400 in [len(stored.tokens) for stored in stored_prefixes(tmp_path)]


def test_a_full_disk_is_no_error(tiny: LlamaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prefix_files, "write_kv", full)
    run = Run(tiny, tmp_path)
    for length in (200, 300):
        session, _ = run.answer(text_of(length))
        assert session.finish_reason == "length"
    run.close()
    assert stored_prefixes(tmp_path) == []


def test_what_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert saving(800, 0.001, 20_000_000) == pytest.approx(0.7)
    assert saving(50, 0.001, 20_000_000) < 0
    assert worth_storing(0.5, 20_000_000)
    assert not worth_storing(0.5, 30_000_000), "a GPU reads a prompt as fast as a disk"
    assert not worth_storing(0.2, 1), "nobody waits for so little"


def test_an_engine_keeps_prompts_only_where_it_is_told_to(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    found = []
    for cache in (False, True, True, 0, 1e-6, 0.5):
        with load(path, threads=1, drafter="none", cache_dir=tmp_path / "cache", prefix_cache=cache) as engine:
            session = engine.generate("a" * 200, raw=True, max_tokens=2)
        found.append(session.tally.cached_tokens)
    assert found == [0, 0, found[2], 0, found[2], found[2]]
    assert found[2] > 190
    with pytest.raises(InvalidRequest, match="prefix_cache is -1"):
        load(path, prefix_cache=-1)


def test_a_chat_writes_its_state_when_it_has_grown_and_not_after_each_turn(tiny: LlamaModel, tmp_path: Path) -> None:
    run = Run(tiny, tmp_path)
    written = []
    for length in range(80, 400, 20):
        run.answer(text_of(length), count=1)
        written.append(max(len(stored.tokens) for stored in stored_prefixes(tmp_path)))
    run.close()
    assert set(written) == {80}, "no turn adds a third"
    run = Run(tiny, tmp_path)
    run.answer(text_of(200))
    assert [len(stored.tokens) for stored in stored_prefixes(tmp_path)] == [200]
    run.close()


@pytest.mark.parametrize("failure", ["no memory", "little memory", "no threads", "no disk"])
def test_what_cannot_be_stored_costs_no_answer(
    tiny: LlamaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise {"no memory": MemoryError(), "no threads": RuntimeError(), "no disk": OSError()}[failure]

    run = Run(tiny, tmp_path)
    assert run.cache is not None
    if failure == "no memory":
        monkeypatch.setattr(run.context, "state", fail)
    elif failure == "little memory":
        monkeypatch.setattr(prefix_cache, "free_memory", lambda: FreeMemory(available=1e4))
    elif failure == "no threads":
        monkeypatch.setattr(threading.Thread, "start", fail)
    else:
        run.cache._max_bytes = None
        monkeypatch.setattr(prefix_cache, "default_limit", fail)
    session, _ = run.answer(text_of(200))
    assert session.finish_reason == "length"
    run.close()
    assert stored_prefixes(tmp_path) == []
