"""Answers that come and go: each is the one that its prompt gives alone, and none is lost or left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from edgespec import Engine, Session, load
from edgespec.decode.options import GenerationOptions
from edgespec.decode.session import Block
from edgespec.engine.slots import Answering, Slots
from edgespec.errors import ContextOverflow, EdgespecError, EvaluationError, InvalidRequest, TooBusy
from tests.gguf_files import byte_level, tiny_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf", tied=False, metadata=byte_level("gpt-2"))
    with load(path, drafter="suffix", n_ctx=256, threads=1) as engine:
        yield engine


class Asked:
    """An answer, with what became of it."""

    def __init__(self, tokens: list[int], **options: object) -> None:
        self.blocks: list[int] = []
        self.error: EdgespecError | None = None
        self.session: Session | None = None
        self.over = threading.Event()
        self.begun = threading.Event()
        chosen = GenerationOptions(**{"max_tokens": 20, **options})  # type: ignore[arg-type]
        self.answering = Answering(tokens, chosen, self._block, self._end)

    def _block(self, session: Session, block: Block) -> None:
        self.blocks += block.tokens
        self.begun.set()

    def _end(self, session: Session | None, error: EdgespecError | None) -> None:
        self.session, self.error = session, error
        self.over.set()

    def wait(self) -> Session:
        assert self.over.wait(60)
        assert self.error is None and self.session is not None
        return self.session


@pytest.fixture
def slots(engine: Engine) -> Iterator[Slots]:
    slots = Slots(engine, count=3, n_ctx=128, most_waiting=4)
    yield slots
    slots.close()


def prompts(engine: Engine, count: int) -> list[list[int]]:
    return [engine.tokenize(f"prompt number {number} is about {number * number}") for number in range(count)]


def test_each_is_the_one_that_its_prompt_gives_alone(engine: Engine, slots: Slots) -> None:
    every = prompts(engine, 7)
    asked = [Asked(tokens) for tokens in every]
    for one in asked:
        slots.begin(one.answering)
    for tokens, one in zip(every, asked, strict=True):
        alone = engine.session(tokens, max_tokens=20)
        for _ in alone.stream():
            pass
        assert one.wait().emitted == one.blocks == alone.emitted
    assert slots.active == []


def test_one_that_is_cancelled_leaves_the_others(engine: Engine, slots: Slots) -> None:
    first, second = (Asked(tokens, max_tokens=100) for tokens in prompts(engine, 2))
    slots.begin(first.answering)
    slots.begin(second.answering)
    assert first.begun.wait(60)
    first.answering.cancel()
    assert first.wait().finish_reason == "cancelled"
    assert second.wait().finish_reason in ("stop", "length")
    early = Asked(prompts(engine, 1)[0])
    early.answering.cancel()
    slots.begin(early.answering)
    assert early.wait().emitted == []


def test_what_cannot_be_answered_is_refused_at_once(engine: Engine, slots: Slots) -> None:
    with pytest.raises(ContextOverflow):
        slots.begin(Asked([300] * 128).answering)
    with pytest.raises(InvalidRequest, match="empty"):
        slots.begin(Asked([]).answering)


def test_too_many_are_refused(engine: Engine) -> None:
    slots = Slots(engine, count=2, n_ctx=128, most_waiting=1)
    try:
        with engine.lock:  # nothing is decoded meanwhile
            asked = [Asked(tokens) for tokens in prompts(engine, 4)]
            with pytest.raises(TooBusy, match="3 answers are asked for already"):
                for one in asked:
                    slots.begin(one.answering)
        asked[0].wait()
    finally:
        slots.close()


@pytest.mark.parametrize("finish", [False, True])
def test_closing_ends_or_finishes_what_was_begun(engine: Engine, finish: bool) -> None:
    slots = Slots(engine, count=2, n_ctx=128, most_waiting=4)
    asked = [Asked(tokens, max_tokens=60) for tokens in prompts(engine, 4)]
    for one in asked:
        slots.begin(one.answering)
    assert asked[0].begun.wait(60)
    slots.close(finish=finish)
    reasons = {one.wait().finish_reason for one in asked}
    assert reasons <= {"stop", "length"} if finish else "cancelled" in reasons
    with pytest.raises(InvalidRequest, match="stopping"):
        slots.begin(Asked(prompts(engine, 1)[0]).answering)


def test_an_error_that_nobody_expected_ends_answers_and_not_the_thread(
    engine: Engine, slots: Slots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first = Asked(prompts(engine, 1)[0])

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    first.answering.on_block = broken
    slots.begin(first.answering)
    assert first.over.wait(60)
    assert isinstance(first.error, EvaluationError) and "a bug" in str(first.error)
    assert "the answers in progress are lost" in caplog.text
    second = Asked(prompts(engine, 2)[1])
    slots.begin(second.answering)
    second.wait()


def test_nothing_is_done_while_there_is_nothing_to_do(slots: Slots) -> None:
    before = time.thread_time_ns(), time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before[1] < 0.2
