"""Answers for asyncio: the event loop stays free, a cancelled task ends its answer, and answers take turns."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgespec
from edgespec import Block, Engine, SamplingParams, Session
from edgespec.core import Draft, Evaluation, TokenSequence
from edgespec.decode.options import GenerationOptions
from edgespec.engine.asynchronous import Turns
from edgespec.engine.messages import conversation
from edgespec.errors import EvaluationError, InvalidRequest
from edgespec.testing import FixedPolicy, KeyedSampler, ScriptedDrafter, TableModel
from tests.gguf_files import tiny_model
from tests.rounding import assert_same_answer

LOCK = threading.RLock()


def session_on(model: TableModel, prompt: Sequence[int], *, count: int = 40, size: int = 0) -> Session:
    drafter = ScriptedDrafter(lambda tokens, limit: [tokens[-1]] * limit)
    options = GenerationOptions(max_tokens=count)
    return Session(
        model, model, KeyedSampler(), FixedPolicy(drafter, size), TokenSequence(prompt), options, lock=LOCK
    )  # fmt: skip


def plain(prompt: Sequence[int], count: int = 40) -> list[int]:
    session = session_on(TableModel(), prompt, count=count)
    for _ in session.stream():
        pass
    return session.emitted


async def collected(blocks: AsyncGenerator[Block, None], most: int = 10**6) -> list[Block]:
    found = []
    async with contextlib.aclosing(blocks):
        async for block in blocks:
            found.append(block)
            if len(found) == most:
                break
    return found


PROMPTS = st.lists(st.integers(1, 31), min_size=1, max_size=8)


@given(prompt=PROMPTS, size=st.integers(0, 3))
def test_the_blocks_are_those_of_the_answer(prompt: list[int], size: int) -> None:
    session = session_on(TableModel(), prompt, size=size)
    blocks = asyncio.run(collected(Turns().blocks(session)))
    assert [token for block in blocks for token in block.tokens] == session.emitted == plain(prompt)
    assert "".join(block.text for block in blocks) == session.text
    assert blocks[-1].finish_reason == session.finish_reason


class Waiting(TableModel):
    """A target whose forward passes wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may_go_on = threading.Event()

    def evaluate(self, tokens: Sequence[int], draft: Draft) -> Evaluation:
        self.begun.set()
        assert self.may_go_on.wait(10)
        return super().evaluate(tokens, draft)


def test_the_event_loop_is_free_meanwhile() -> None:
    model = Waiting()

    async def main() -> list[Block]:
        task = asyncio.create_task(collected(Turns().blocks(session_on(model, [1]))))
        while not model.begun.is_set():
            await asyncio.sleep(0)
        model.may_go_on.set()  # reached only if the forward pass in progress does not hold the event loop
        return await task

    assert [token for block in asyncio.run(main()) for token in block.tokens] == plain([1])


def test_a_cancelled_task_ends_its_answer_after_the_forward_pass_in_progress() -> None:
    model, turns = Waiting(), Turns()
    session = session_on(model, [1])

    async def main() -> None:
        task = asyncio.create_task(collected(turns.blocks(session)))
        while not model.begun.is_set():
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done(), "the forward pass in progress is not over"
        model.may_go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.finish_reason == "cancelled" and len(session.emitted) == 2, "the prefill's token, and one more"
        again = session_on(model, [1])
        await collected(turns.blocks(again))
        assert again.emitted == plain([1])

    asyncio.run(main())


@given(prompt=PROMPTS, taken=st.integers(1, 12), more=PROMPTS)
def test_whoever_leaves_the_loop_leaves_the_cache_sound(prompt: list[int], taken: int, more: list[int]) -> None:
    model, turns = TableModel(), Turns()

    async def main() -> tuple[Session, Session]:
        left, other = session_on(model, prompt, size=2), session_on(model, [*prompt, *more])
        blocks = await collected(turns.blocks(left), taken)
        assert sum(len(block.tokens) for block in blocks) <= len(left.emitted)
        await collected(turns.blocks(other))
        return left, other

    left, other = asyncio.run(main())
    assert left.emitted == plain(prompt)[: len(left.emitted)]
    assert other.emitted == plain([*prompt, *more])


def test_a_task_that_waits_for_its_turn_is_cancelled_at_once() -> None:
    model, turns = Waiting(), Turns()

    async def main() -> None:
        first = asyncio.create_task(collected(turns.blocks(session_on(model, [1]))))
        while not model.begun.is_set():
            await asyncio.sleep(0)
        waiting = session_on(model, [2])
        second = asyncio.create_task(collected(turns.blocks(waiting)))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert not waiting.emitted
        model.may_go_on.set()
        await first

    asyncio.run(main())


def test_errors_reach_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    model, turns = TableModel(), Turns()

    def failing(tokens: Sequence[int], draft: Draft) -> Evaluation:
        raise EvaluationError("no")

    def refused() -> Session:
        raise InvalidRequest("never")

    monkeypatch.setattr(model, "evaluate", failing)
    session = session_on(model, [1])
    with pytest.raises(EvaluationError, match="no"):
        asyncio.run(collected(turns.blocks(session)))
    assert session.finish_reason == "cancelled" and session.emitted == plain([1])[:1], "the prefill's token is kept"
    with pytest.raises(InvalidRequest, match="never"):
        asyncio.run(collected(turns.answer(refused)))
    monkeypatch.undo()
    again = session_on(model, [1])
    asyncio.run(collected(turns.blocks(again)))
    assert again.emitted == plain([1])


@given(st.lists(PROMPTS, min_size=2, max_size=4), st.integers(1, 5))
def test_answers_take_turns(prompts: list[list[int]], reading: int) -> None:
    """Each forward pass takes a second; the first of a turn `reading` more where the cache holds another answer."""
    order: list[int] = []
    seconds = 0.0
    model = TableModel()
    decode = model._decode

    def timed(tokens: Sequence[int], rows: int) -> Any:
        nonlocal seconds
        seconds += 1 if model.cached(tokens) >= len(tokens) - 1 else reading
        order.append(tokens[0])
        return decode(tokens, rows)

    model._decode = timed  # type: ignore[method-assign]
    turns = Turns(lambda: seconds)
    prompts = [
        [number + 1, *prompt] for number, prompt in enumerate(prompts)
    ]  # the first token tells the answers apart

    async def main() -> list[Session]:
        sessions = [session_on(model, prompt, count=30) for prompt in prompts]
        await asyncio.gather(*(collected(turns.blocks(session)) for session in sessions))
        return sessions

    sessions = asyncio.run(main())
    assert [session.emitted for session in sessions] == [plain(prompt, 30) for prompt in prompts]
    if any(session.finish_reason == "stop" for session in sessions):
        return
    turns_taken = [(answer, len(list(passes))) for answer, passes in itertools.groupby(order)]
    answers = [prompt[0] for prompt in prompts]
    assert [answer for answer, _ in turns_taken[: 2 * len(answers)]] == answers * 2, "each in its turn"
    assert max(length for _, length in turns_taken[: 2 * len(answers)]) <= 2 + (1 + reading)


TEMPLATE = "{% for message in messages %}{{ message.content }} {% endfor %}"


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Engine]:
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    with edgespec.load(path, n_ctx=512, threads=1, cache_dir=tmp_path) as engine:
        yield engine


ENDLESS = SamplingParams(logit_bias={2: -np.inf})


def test_an_engine_answers_for_asyncio(tiny: Engine) -> None:
    async def main() -> None:
        session = await tiny.agenerate("w300", max_tokens=12, sampling=ENDLESS)
        assert session.emitted == tiny.generate("w300", max_tokens=12, sampling=ENDLESS).emitted
        assert session.finish_reason == "length"
        blocks = await collected(tiny.astream("w300", max_tokens=12, sampling=ENDLESS))
        assert "".join(block.text for block in blocks) == session.text
        chat = tiny.chat("w301")
        said = "".join([block.text async for block in chat.astream("w302", max_tokens=6, sampling=ENDLESS)])
        assert chat.messages[-1] == {"role": "assistant", "content": said}
        with pytest.raises(InvalidRequest, match="max_tokens is 0"):
            await tiny.agenerate("w300", max_tokens=0)
        with pytest.raises(InvalidRequest, match="stop is 5"):
            await collected(chat.astream("w300", stop=5))

    asyncio.run(main())


def test_an_engine_may_be_closed_meanwhile(tiny: Engine) -> None:
    async def main() -> None:
        stream = tiny.astream("w300", max_tokens=400, sampling=ENDLESS)
        async with contextlib.aclosing(stream):
            with pytest.raises(InvalidRequest, match="closed"):
                async for _ in stream:
                    tiny.close()
        with pytest.raises(InvalidRequest, match="closed"):
            await tiny.agenerate("w300")

    asyncio.run(main())


def test_the_loop_over_the_blocks_may_be_left_without_a_word(tiny: Engine) -> None:
    async def main() -> None:
        async for _ in tiny.astream("w300", max_tokens=400, sampling=ENDLESS):
            break
        assert (await tiny.agenerate("w301", max_tokens=3, sampling=ENDLESS)).emitted

    asyncio.run(main())


@pytest.mark.model
def test_several_tasks_on_a_real_model(smollm2: Path, tmp_path: Path) -> None:
    prompts = ["Count from 1 to 20.", "Name three rivers.", "Say the alphabet."]
    with edgespec.load(smollm2, drafter="none", n_ctx=512, cache_dir=tmp_path) as engine:

        async def main() -> list[Session]:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(engine.agenerate("Count to one thousand.", max_tokens=400), 0.3)
            return list(await asyncio.gather(*(engine.agenerate(prompt, max_tokens=16) for prompt in prompts)))

        for prompt, session in zip(prompts, asyncio.run(main()), strict=True):
            tokens = engine.tokenize(engine.model.render(conversation(prompt, None)))
            alone = engine.generate(prompt, max_tokens=16).emitted
            assert_same_answer(engine, tokens, alone, session.emitted, SamplingParams())
