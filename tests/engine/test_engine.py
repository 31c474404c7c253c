"""The engine on SmolLM2, as a program would use it: drafted text is plain text, chats keep their tokens."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.backend import LlamaModel
from edgespec.core import common_prefix
from edgespec.decode.session import Session
from edgespec.drafters import make_drafter
from edgespec.engine.chat import Chat
from edgespec.engine.messages import conversation
from edgespec.errors import (
    ContextOverflow,
    GrammarError,
    InvalidRequest,
    ModelNotFound,
    UnknownDrafter,
    UnsupportedModel,
)
from edgespec.testing import FixedPolicy, ScriptedDrafter
from tests.gguf_files import tiny_model
from tests.present import present
from tests.rounding import assert_same_answer, rounding

pytestmark = pytest.mark.model

PROMPTS = [
    "Write the numbers from 1 to 40, separated by commas.",
    "Repeat this line five times: the quick brown fox jumps over the lazy dog.",
    "Explain in two sentences why the sky is blue.",
]


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with edgespec.load(smollm2, n_ctx=1024, cache_dir=tmp_path_factory.mktemp("cache")) as engine:
        yield engine


@pytest.fixture
def eager(engine: Engine) -> Iterator[Engine]:
    """The engine with a policy that always drafts, so that verification has much to do."""
    before = engine.policy
    engine.policy = FixedPolicy(make_drafter("suffix"), 8)
    yield engine
    engine.policy = before


def answer(engine: Engine, prompt: str, sampling: SamplingParams, count: int = 64) -> Session:
    engine.context.forget()
    return engine.generate(prompt, sampling=sampling, max_tokens=count)


def ids(engine: Engine, prompt: str) -> list[int]:
    """The tokens of a prompt, as `generate` reads it."""
    return engine.tokenize(engine.model.render(conversation(prompt, None)))


@pytest.fixture
def plain(engine: Engine) -> Iterator[Engine]:
    """The engine without drafts. After `forget` it evaluates the same tokens in the same way, and rounds alike."""
    before = engine.policy
    engine.policy = FixedPolicy(make_drafter("suffix"), 0)
    yield engine
    engine.policy = before


@pytest.mark.parametrize(
    "sampling", [SamplingParams(), SamplingParams(temperature=0.8, seed=11)], ids=["greedy", "seeded"]
)
def test_drafted_text_is_plain_text(engine: Engine, eager: Engine, sampling: SamplingParams) -> None:
    drafted = [answer(eager, prompt, sampling) for prompt in PROMPTS]
    assert sum(session.tally.accepted for session in drafted) > 20, "the prompts must give something to draft"
    with edgespec.load(engine.model.path, drafter="none", n_ctx=1024) as plain_engine:
        for prompt, session in zip(PROMPTS, drafted, strict=True):
            plain = answer(plain_engine, prompt, sampling)
            assert_same_answer(plain_engine, ids(engine, prompt), plain.emitted, session.emitted, sampling)


def test_every_filter_gives_the_same_text_with_drafts(engine: Engine, eager: Engine) -> None:
    sampling = SamplingParams(
        temperature=0.9, top_k=40, top_p=0.95, min_p=0.02, typical_p=0.98, repeat_penalty=1.1, presence_penalty=0.1,
        frequency_penalty=0.1, dry_multiplier=0.5, logit_bias={42: 1.0}, seed=3, logprobs=2,
    )  # fmt: skip
    drafted = answer(eager, PROMPTS[1], sampling, 40)
    eager.policy = FixedPolicy(make_drafter("anpd"), 0)
    plain = answer(eager, PROMPTS[1], sampling, 40)
    assert [entry.token for entry in drafted.logprobs] == drafted.emitted
    shared = common_prefix(drafted.emitted, plain.emitted)
    noise = rounding(engine.context, ids(engine, PROMPTS[1]) + plain.emitted[:shared]).noise
    for left, right in zip(drafted.logprobs[:shared], plain.logprobs[:shared], strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=2 * noise)
    assert_same_answer(engine, ids(engine, PROMPTS[1]), plain.emitted, drafted.emitted, sampling)


def test_blocks_join_to_the_answer(engine: Engine) -> None:
    session = engine.stream(PROMPTS[0], max_tokens=50)
    blocks = list(session.stream())
    assert "".join(block.text for block in blocks) == session.text
    assert [token for block in blocks for token in block.tokens] == session.emitted
    assert blocks[-1].finish_reason == session.finish_reason == "length"
    assert session.tally.tokens == len(session.emitted) == 50
    assert session.tally.prompt_seconds <= session.tally.first_token_seconds


def test_stop_strings_end_the_answer_before_them(plain: Engine) -> None:
    whole = answer(plain, PROMPTS[0], SamplingParams()).text
    stop = whole[20:24]
    plain.context.forget()
    cut = plain.generate(PROMPTS[0], max_tokens=64, stop=[stop])
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_a_chat_evaluates_only_what_is_new(engine: Engine) -> None:
    chat = engine.chat("You are terse.")
    engine.context.forget()
    seen = 0
    for turn in ("Name a river.", "Name another one.", "And a third, please."):
        session = chat.stream(turn, max_tokens=24)
        for _ in session.stream():
            pass
        assert session.tally.cached_tokens >= seen - 1, "the last token said was never evaluated; all others were"
        seen = session.tally.prompt_tokens + len(session.emitted)
    assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 3]
    assert chat.rewritten == 0


def test_a_chat_goes_on_after_a_cancelled_and_a_cut_answer(engine: Engine) -> None:
    chat = engine.chat()
    session = chat.stream(PROMPTS[0], max_tokens=60)
    for number, _ in enumerate(session.stream()):
        if number == 0:
            session.cancel()
    assert session.finish_reason == "cancelled" and session.text
    session = chat.stream(PROMPTS[0], max_tokens=60, stop=["7"])
    for _ in session.stream():
        pass
    assert "7" not in chat.messages[-1]["content"]
    again = chat.stream("Go on.", max_tokens=8)
    for _ in again.stream():
        pass
    assert again.emitted
    tokens = engine.tokenize(engine.model.render(chat.messages[:-1]))
    with edgespec.load(engine.model.path, drafter="none", n_ctx=1024) as fresh:
        first = fresh.session(list(tokens), max_tokens=1).step().tokens
        assert_same_answer(fresh, tokens, first, again.emitted[:1], SamplingParams())


def test_a_full_chat_is_an_error_or_shifts(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, n_ctx=256, cache_dir=tmp_path) as engine:
        chat = engine.chat("Be brief.")
        with pytest.raises(ContextOverflow, match="--ctx"):
            for _ in range(12):
                for _ in chat.stream("Tell me something about the sea.", max_tokens=40).stream():
                    pass
        shifting = engine.chat("Be brief.")
        for _ in range(8):
            session = shifting.stream("Tell me something about the sea.", max_tokens=40, overflow="shift")
            for _ in session.stream():
                pass
            assert session.emitted and session.tally.prompt_tokens < 256
        with pytest.raises(ContextOverflow, match="even without"):
            shifting.stream("word " * 300, overflow="shift")
        engine.context.forget()  # as after another model, or a session whose cache was lost
        again = consumed(shifting.stream("Tell me something about the sea.", max_tokens=40, overflow="shift"))
        assert again.emitted and again.tally.prompt_tokens < 256
        reopened = engine.chat()
        reopened.restore(shifting.as_json(), same_model=False)
        assert consumed(reopened.stream("And about the sky?", max_tokens=40, overflow="shift")).emitted


def consumed(session: Session) -> Session:
    for _ in session.stream():
        pass
    return session


def test_looking_at_a_conversation_leaves_its_answer_alone(plain: Engine) -> None:
    engine = plain
    engine.context.forget()
    looked_at, other = engine.chat("Be brief."), engine.chat("Be brief.")
    session = looked_at.stream(PROMPTS[0], max_tokens=24)
    for _ in session.stream():
        assert looked_at.messages[-1] == {"role": "assistant", "content": session.text}
        engine.chat().restore(looked_at.as_json(), same_model=True)
    assert session.emitted == afresh(engine, other, PROMPTS[0], 24)
    assert looked_at.as_json() == other.as_json()
    turns = [afresh(engine, chat, "Go on.", 8) for chat in (looked_at, other)]
    assert turns[0] == turns[1] and looked_at.rewritten == 0


def afresh(engine: Engine, chat: Chat, text: str, count: int) -> list[int]:
    """What a chat says next, all of it evaluated anew."""
    engine.context.forget()
    return consumed(chat.stream(text, max_tokens=count)).emitted


def test_changing_a_conversation_ends_its_answer(plain: Engine) -> None:
    engine = plain
    chat, other = engine.chat(), engine.chat()
    afresh(engine, chat, PROMPTS[1], 8)
    session = chat.stream(PROMPTS[0], max_tokens=200)
    session.step()
    session.step()
    chat.undo()
    begun = chat.stream("Name a river.", max_tokens=12)
    assert consumed(session).finish_reason == "cancelled" and len(session.emitted) < 100
    engine.context.forget()
    said = consumed(begun).emitted
    afresh(engine, other, PROMPTS[1], 8)
    assert said == afresh(engine, other, "Name a river.", 12)
    assert chat.messages == other.messages


def test_whoever_uses_a_closed_engine_is_told(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, n_ctx=256, cache_dir=tmp_path) as engine:
        chat, session = engine.chat(), engine.stream("Hello", max_tokens=8)
        session.step()
    uses: list[Callable[[], object]] = [
        session.step, lambda: chat.stream("Hello"), lambda: engine.generate("Hello"), lambda: engine.tokenize("Hello"),
        engine.context.forget, engine.context.state, lambda: engine.context.set_state([], b""),
        lambda: engine.model.name, lambda: engine.model.vocabulary,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(InvalidRequest, match="closed"):
            use()
    engine.close()


def test_closing_within_an_evaluation_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match=r"close the engine then"):
        for _ in engine.stream("Hello", max_tokens=4, on_prefill=lambda *_: engine.close()).stream():
            pass
    assert engine.generate("Hello", max_tokens=4).emitted


def test_an_answer_that_was_cancelled_ends_even_when_the_engine_is_closed_first(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, n_ctx=256, cache_dir=tmp_path) as engine:
        session = engine.stream("Hello", max_tokens=8)
        session.step()
        session.cancel()
    assert [block.finish_reason for block in session.stream()] == ["cancelled"]


def test_what_was_loaded_before_an_error_is_freed(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = LlamaModel.close

    def noted(model: LlamaModel) -> None:
        closed.append(model.path.name)
        close(model)

    monkeypatch.setattr(LlamaModel, "close", noted)
    with pytest.raises(UnsupportedModel, match="no context"):  # quantized values need flash attention
        edgespec.load(smollm2, kv_type="q4_0", flash_attention="off", cache_dir=tmp_path)
    assert closed == [smollm2.name]
    other = tiny_model(tmp_path / "other.gguf", n_vocab=300)
    with pytest.raises(UnsupportedModel):
        edgespec.load(smollm2, drafter=f"{smollm2}+{other}", n_ctx=256, cache_dir=tmp_path)
    assert sorted(closed[1:]) == sorted([smollm2.name, smollm2.name, other.name])


def test_one_stop_string_is_one(engine: Engine) -> None:
    said = engine.generate("Count from 1 to 9.", max_tokens=30, stop="3,").text
    assert said and "3," not in said


def test_a_penalty_may_look_far_back(engine: Engine) -> None:
    """llama.cpp would take 8 bytes of memory for each token of it."""
    far = SamplingParams(repeat_penalty=1.1, penalty_last_n=2**31 - 1)
    assert engine.generate("Hello", sampling=far, max_tokens=4).emitted


def test_a_raw_prompt_needs_no_template_to_be_shifted(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    with edgespec.load(path, n_ctx=128, threads=1, cache_dir=tmp_path) as engine:
        endless = SamplingParams(logit_bias={2: -math.inf})
        session = engine.generate("w300", raw=True, overflow="shift", max_tokens=300, sampling=endless)
        assert len(session.emitted) == 300 and session.tally.dropped_tokens


def test_a_schema_rules_answers_and_chats(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    path = tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": template})
    schema = {"type": "object", "properties": {"a": {"enum": [1, True]}}, "required": ["a"]}

    class Model:
        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:
            return schema

    with edgespec.load(path, n_ctx=128, threads=1, cache_dir=tmp_path) as engine:
        for given in (schema, json.dumps(schema), Model):
            assert json.loads(engine.generate("w300", schema=given).text)["a"] == 1
        streamed = "".join(block.text for block in engine.stream("w300", schema=schema).stream())
        said = "".join(block.text for block in engine.chat().stream("w300", schema=schema).stream())
        assert json.loads(streamed)["a"] == json.loads(said)["a"] == 1
        with pytest.raises(InvalidRequest, match="exclude each other"):
            engine.generate("w300", schema=schema, sampling=SamplingParams(grammar='root ::= "a"'))
        with pytest.raises(GrammarError, match="uniqueItems at #"):
            engine.chat().stream("w300", schema={"uniqueItems": True})


def test_two_chats_on_one_engine_take_turns_in_threads(engine: Engine) -> None:
    alone = [engine.generate(prompt, max_tokens=30).emitted for prompt in PROMPTS]
    results: dict[int, list[int]] = {}

    def run(number: int) -> None:
        results[number] = engine.generate(PROMPTS[number], max_tokens=30).emitted

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, emitted in results.items():  # each turn evicts the other's prompt, which is then split differently
        assert_same_answer(engine, ids(engine, PROMPTS[number]), alone[number], emitted, SamplingParams())


def test_costs_are_kept_for_the_next_run(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, n_ctx=512, cache_dir=tmp_path) as engine:
        engine.generate(PROMPTS[0], max_tokens=20)
        measured = engine.latency.t1
    with edgespec.load(smollm2, n_ctx=512, cache_dir=tmp_path) as engine:
        assert engine.latency.t1 == pytest.approx(measured)
    (stored,) = (tmp_path / "costs").iterdir()
    stored.write_text("{")
    with edgespec.load(smollm2, n_ctx=512, cache_dir=tmp_path) as engine:
        assert not engine.latency.known


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"model": "/no/such.gguf"}, ModelNotFound),
        ({"model": "no-such-alias"}, ModelNotFound),
        ({"drafter": "psychic"}, UnknownDrafter),
        ({"threads": 0}, InvalidRequest),
        ({"n_ctx": 3}, InvalidRequest),
        ({"kv_type": "q3"}, InvalidRequest),
        ({"flash_attention": "maybe"}, InvalidRequest),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(
    arguments: dict[str, Any], error: type[Exception], smollm2: Path, tmp_path: Path
) -> None:
    with pytest.raises(error):
        edgespec.load(**{"model": smollm2, "cache_dir": tmp_path, **arguments})


def test_bad_requests_leave_the_engine_usable(engine: Engine) -> None:
    with pytest.raises(ContextOverflow, match="1024"):
        engine.generate("word " * 2000)
    with pytest.raises(InvalidRequest):
        engine.generate("", raw=True)
    with pytest.raises(InvalidRequest, match="raw"):
        engine.generate("x", raw=True, system="y")
    with pytest.raises(InvalidRequest, match="a message is"):
        engine.generate([{"role": "nobody", "text": "x"}])
    assert engine.generate("Hello", max_tokens=3).emitted


def test_the_drafter_can_be_changed(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, drafter="none", n_ctx=256, cache_dir=tmp_path) as engine:
        plain = engine.generate(PROMPTS[1], max_tokens=24)
        cost = engine.latency
        engine.change_drafter("suffix+anpd")
        assert [drafter.name for drafter in engine.drafters] == ["suffix", "anpd"] and engine.latency is cost
        engine.policy = FixedPolicy(engine.drafters[0].drafter, 4)
        drafted = engine.generate(PROMPTS[1], max_tokens=24)
        assert drafted.tally.drafters["suffix"].accepted > 0
        assert drafted.tally.cached_tokens == drafted.tally.prompt_tokens - 1
        with pytest.raises(UnknownDrafter):
            engine.change_drafter("suffix+nobody")
        assert engine.drafter_name == "suffix+anpd"
        engine.change_drafter(str(smollm2))  # a model, as its own drafter
        (model,) = engine.drafters
        engine.change_drafter(ScriptedDrafter(lambda tokens, limit: [], "mine"))
        assert engine.drafter_name == "mine"
        with pytest.raises(InvalidRequest, match="closed"):
            present(model.context).prefill([1])
        (mine,) = engine.drafters
        engine.change_drafter(mine.drafter)
        assert [one.drafter for one in engine.drafters] == [mine.drafter]
        assert_same_answer(engine, ids(engine, PROMPTS[1]), plain.emitted, drafted.emitted, SamplingParams())


def test_a_drafter_may_be_named_by_its_path_and_must_be_one(smollm2: Path, tmp_path: Path) -> None:
    with edgespec.load(smollm2, drafter=Path(smollm2), n_ctx=256, cache_dir=tmp_path) as engine:
        assert engine.drafters[0].name == Path(smollm2).stem
        for wrong in (None, 5, ["suffix"]):
            with pytest.raises(UnknownDrafter, match="is not a drafter"):
                engine.change_drafter(wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownDrafter, match="None is not a drafter"):
        edgespec.load("no-such-model.gguf", drafter=None)  # type: ignore[arg-type]


def test_a_drafter_of_ones_own(smollm2: Path, engine: Engine, tmp_path: Path) -> None:
    plain = answer(engine, PROMPTS[0], SamplingParams(), 24)
    prompt = ids(engine, PROMPTS[0])

    def know_it_all(tokens: Sequence[int], limit: int) -> list[int]:
        return plain.emitted[len(tokens) - len(prompt) :][:limit]

    with edgespec.load(smollm2, drafter=ScriptedDrafter(know_it_all, "mine"), n_ctx=256, cache_dir=tmp_path) as own:
        drafted = own.generate(PROMPTS[0], max_tokens=24)
        assert own.drafter_name == "mine" and drafted.tally.drafters["mine"].accepted > 0
    assert_same_answer(engine, prompt, plain.emitted, drafted.emitted, SamplingParams())
