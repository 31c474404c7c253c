"""The real engine on SmolLM2: the KV cache is true whatever happens, and the samplers are llama.cpp's."""

from __future__ import annotations

import ctypes
import json
import logging
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgespec.backend import LlamaContext, LlamaModel, LlamaSampler
from edgespec.core import NOTHING, ROOT, Draft, Row, TokenSequence
from edgespec.decode.sampling import SamplingParams, draw, log_probabilities
from edgespec.errors import (
    ContextOverflow,
    EvaluationError,
    GrammarError,
    InvalidRequest,
    MalformedModel,
    UnsupportedModel,
)
from edgespec.grammar import schema_to_grammar
from edgespec.system.signals import ENDING, heeded_signals
from tests.gguf_files import tiny_model
from tests.present import present
from tests.rounding import chain, rounding

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def model(smollm2: Path) -> Iterator[LlamaModel]:
    model = LlamaModel(smollm2)
    yield model
    model.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    model = LlamaModel(tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    yield model
    model.close()


@pytest.fixture
def make_context(model: LlamaModel) -> Iterator[Callable[..., LlamaContext]]:
    made = []

    def make(n_ctx: int = 1024, threads: int = 2) -> LlamaContext:
        made.append(LlamaContext(model, n_ctx=n_ctx, threads=threads))
        return made[-1]

    yield make
    for context in made:
        context.close()


@pytest.fixture(scope="module")
def text(model: LlamaModel) -> list[int]:
    """Some 700 tokens."""
    words = "The river rises in the hills, and runs past the mill, the bridge and the old town to the sea. "
    return model.vocabulary.tokenize("".join(f"{n}. {words}" for n in range(25)))


@pytest.fixture(scope="module")
def noise(model: LlamaModel, text: list[int]) -> float:
    """More than rounding moves a logit on this machine; a stale token moves some logit by far more, as is tested."""
    context = LlamaContext(model, n_ctx=1024, threads=2)
    mixed = random.Random(7).choices(text, k=150)
    measured = max(rounding(context, tokens).noise for tokens in (text[:300], mixed))
    context.close()
    return max(0.1, 3.0 * measured)


def difference(left: Row, right: Row) -> float:
    return float(np.abs(left - right).max())


def test_rows_of_a_draft_are_those_of_single_tokens(
    make_context: Callable[..., LlamaContext], text: list[int], noise: float
) -> None:
    context, alone = make_context(), make_context()
    context.prefill(text[:99])
    rows = context.evaluate(text[:100], chain(text[100:107])).rows.copy()
    alone.prefill(text[:99])
    for row in range(8):
        single = alone.evaluate(text[: 100 + row], NOTHING).rows[0]
        assert difference(rows[row], single) < noise


def test_one_wrong_token_shows(make_context: Callable[..., LlamaContext], text: list[int], noise: float) -> None:
    context = make_context()
    right = present(context.prefill(text[:150])).copy()
    assert difference(right, present(context.prefill([*text[:145], 7, *text[146:150]]))) > 1.5 * noise


def test_any_walk_over_prefixes_leaves_a_true_cache(
    make_context: Callable[..., LlamaContext], text: list[int], noise: float
) -> None:
    """Feeds of random lists that share random prefixes, with drafts that are then left behind."""
    context, fresh = make_context(), make_context()
    rng = random.Random(3)
    tokens = list(text[:150])
    for _ in range(14):
        keep = rng.randrange(len(tokens))
        tokens = tokens[:keep] + [rng.choice(text) for _ in range(rng.randrange(1, 150))]
        tokens = tokens[-700:]
        if rng.random() < 0.5:
            row = present(context.prefill(tokens)).copy()
        else:
            row = context.evaluate(tokens, chain([rng.choice(text) for _ in range(rng.randrange(8))])).rows[0].copy()
        assert context.cached(tokens) == len(tokens)
        fresh.forget()
        assert difference(row, present(fresh.prefill(tokens))) < noise


@given(data=st.data())
@settings(max_examples=40)
def test_a_sequence_that_is_cut_and_goes_on_leaves_a_true_cache(tiny: LlamaModel, data: st.DataObject) -> None:
    """What a token sequence says of itself is believed, so it has to agree with a comparison of all tokens."""
    context, fresh = (LlamaContext(tiny, n_ctx=128, threads=1) for _ in range(2))
    sequences = [TokenSequence([300, 301])]
    piece = st.lists(st.integers(300, 303), min_size=1, max_size=12)
    for _ in range(data.draw(st.integers(1, 12))):
        sequence = data.draw(st.sampled_from(sequences))
        match data.draw(st.sampled_from(["extend", "draft", "cut", "shift", "new", "list", "rewind"])):
            case "extend" | "draft":
                sequence.extend(data.draw(piece))
            case "cut":
                sequence.cut(data.draw(st.integers(1, len(sequence))))
            case "shift":
                sequence.cut(1, data.draw(st.integers(1, len(sequence))))
            case "new":
                sequence = TokenSequence(data.draw(piece))
                sequences.append(sequence)
            case "list":
                context.prefill(data.draw(piece))
            case _:
                context.rewind(data.draw(st.integers(0, 20)))
        sequence.cut(100)
        assert context.cached(sequence) == context.cached(list(sequence))
        draft = chain(data.draw(piece)) if data.draw(st.booleans()) else NOTHING
        rows = context.evaluate(sequence, draft).rows.copy()
        assert context.cached(sequence) == len(sequence)
        fresh.forget()
        alone = fresh.evaluate(list(sequence), draft).rows
        assert difference(rows, alone) < 0.05
        assert context.cached([*sequence, *draft.tokens]) == len(sequence) + len(draft)
    context.close()
    fresh.close()


def test_cached_tokens_are_not_evaluated_again(make_context: Callable[..., LlamaContext], text: list[int]) -> None:
    context = make_context()
    asked = []

    def proceed(done: int, total: int) -> bool:
        asked.append(done)
        return True

    context.prefill(text[:300], proceed)
    assert asked == [0, 128, 256]
    asked.clear()
    context.prefill(text[:290], proceed)
    assert asked == [289]


def test_interrupts_at_random_moments_leave_a_true_cache(
    make_context: Callable[..., LlamaContext], text: list[int], noise: float
) -> None:
    context, fresh = make_context(), make_context()
    rng = random.Random(5)
    rounds = interrupted = 0

    def work(length: int) -> None:
        context.prefill(text[:length])
        for more in range(12):
            context.evaluate(text[: length + more], chain(text[length : length + rng.randrange(8)]))

    begun = time.monotonic()
    work(150)
    lasting = (time.monotonic() - begun) / 2

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        while interrupted < 12:
            rounds += 1
            assert rounds < 120, "the test must interrupt to mean anything"
            length = rng.randrange(5, 300)
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0005, max(0.001, lasting)))
                work(length)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            probe = text[: rng.randrange(length, 320)]
            row = present(context.prefill(probe)).copy()
            fresh.forget()
            assert difference(row, present(fresh.prefill(probe))) < noise
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_prefill_stops_between_chunks_when_told_to(
    make_context: Callable[..., LlamaContext], text: list[int], noise: float
) -> None:
    context, fresh = make_context(), make_context()
    busy, begun, stop = threading.Event(), threading.Event(), threading.Event()

    def spin() -> None:  # another Python thread that wants the interpreter all the time
        while not busy.is_set():
            sum(range(1000))

    def tell_to_stop() -> None:
        begun.wait(60)
        stop.set()

    def proceed(done: int, total: int) -> bool:
        if done:
            begun.set()
            stop.wait(60)
        return not stop.is_set()

    threads = [threading.Thread(target=target) for target in (spin, tell_to_stop)]
    for thread in threads:
        thread.start()
    try:
        assert context.prefill(text[:700], proceed) is None
    finally:
        busy.set()
        begun.set()
        for thread in threads:
            thread.join()
    assert context.cached(text) == 128
    assert difference(present(context.prefill(text[:700])).copy(), present(fresh.prefill(text[:700]))) < noise


def test_a_shift_drops_the_middle(make_context: Callable[..., LlamaContext], text: list[int]) -> None:
    context = make_context(n_ctx=256)
    context.prefill(text[:200])
    context.shift(10, 80)
    shifted = text[:10] + text[90:200]
    assert context.cached(shifted) == 120
    row = present(context.prefill([*shifted, text[200]]))
    assert np.isfinite(row).all()
    with pytest.raises(InvalidRequest, match="cannot drop"):
        context.shift(100, 100)


def test_a_state_has_no_keys_that_a_shift_has_yet_to_turn(
    make_context: Callable[..., LlamaContext], text: list[int], noise: float
) -> None:
    context, other = make_context(n_ctx=256), make_context(n_ctx=256)
    context.prefill(text[:200])
    context.shift(10, 80)
    assert context.state()[0] == text[:10]  # llama.cpp would write the old keys at the new places
    shifted = [*text[:10], *text[90:150]]
    context.prefill(shifted)
    assert other.set_state(*context.state())
    turned, kept = (present(each.prefill([*shifted, text[0]])) for each in (other, context))
    assert difference(turned, kept) < noise


def test_a_state_belongs_to_contexts_that_scale_positions_alike(tmp_path: Path) -> None:
    """Beyond the length before scaling, llama.cpp rotates the keys of some models (Phi-3) by other factors."""
    models = [
        LlamaModel(tiny_model(tmp_path / "plain.gguf")),
        LlamaModel(tiny_model(tmp_path / "scaled.gguf", metadata={"llama.rope.scaling.original_context_length": 256})),
    ]
    settings = []
    for model in models:
        for n_ctx in (256, 512):
            context = LlamaContext(model, n_ctx=n_ctx, threads=1)
            settings.append(context.settings)
            context.close()
        model.close()
    assert settings[0] == settings[1]
    assert len(set(settings)) == 3


def test_a_restored_window_is_complete_only_as_a_whole(tmp_path: Path) -> None:
    """llama.cpp saves a sliding window's last tokens only: what is cut from them has to be read again."""
    metadata = {"gemma3.attention.sliding_window": 32}
    model = LlamaModel(tiny_model(tmp_path / "windowed.gguf", architecture="gemma3", metadata=metadata))
    saved, restored, fresh = (LlamaContext(model, n_ctx=512, threads=1) for _ in range(3))
    tokens = [3 + 7 * place % 300 for place in range(200)]
    for length, cut, kept in ((200, 200, 200), (200, 199, 0), (200, 150, 0), (32, 20, 20)):
        saved.prefill(tokens[:length])
        assert restored.set_state(*saved.state())
        other = [*tokens[:cut], *range(300, 310)]
        assert restored.cached(other) == cut
        restored.rewind(cut)
        fresh.forget()
        assert difference(present(restored.prefill(other)), present(fresh.prefill(other))) < 0.01
        assert restored.set_state(*saved.state())
        restored.rewind(cut)
        assert restored.cached(other) == kept
    restored.forget()
    restored.prefill(tokens)
    restored.rewind(100)
    assert restored.cached(tokens) == 100, "what was read here is complete"
    for context in (saved, restored, fresh):
        context.close()
    model.close()


def test_what_does_not_fit_is_refused_and_breaks_nothing(
    make_context: Callable[..., LlamaContext], text: list[int]
) -> None:
    context = make_context(n_ctx=256)
    with pytest.raises(ContextOverflow, match="256"):
        context.prefill(text[:257])
    context.prefill(text[:255])
    with pytest.raises(ContextOverflow):
        context.evaluate(text[:256], chain(text[256:258]))
    assert context.evaluate(text[:256], NOTHING).rows.shape == (1, 49152)
    tree = Draft((1, 2), (ROOT, ROOT), (0.5, 0.5), (0, 0), "tree")
    with pytest.raises(InvalidRequest, match="branches"):
        context.evaluate(text[:10], tree)
    with pytest.raises(InvalidRequest, match="no tokens"):
        context.prefill([])


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "not.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(MalformedModel, match=r"not\.gguf"):
        LlamaModel(path)


def leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@pytest.mark.parametrize(
    ("number", "handler", "raised"),
    [(signal.SIGINT, signal.default_int_handler, KeyboardInterrupt), (signal.SIGTERM, leave, SystemExit)],
)
@pytest.mark.parametrize("what", ["model", "context"])
def test_signals_while_something_is_loaded_are_not_lost(
    model: LlamaModel,
    smollm2: Path,
    number: signal.Signals,
    handler: Callable[[int, FrameType | None], object],
    raised: type[BaseException],
    what: str,
) -> None:
    sent: list[logging.LogRecord] = []

    class Send(logging.Handler):
        """Sends the signal in the middle of llama.cpp's loading, at its first word."""

        def emit(self, record: logging.LogRecord) -> None:
            if not sent:
                sent.append(record)
                signal.raise_signal(number)

    logger, send = logging.getLogger("edgespec.llama_cpp"), Send()
    level, before = logger.level, signal.signal(number, handler)
    logger.addHandler(send)
    logger.setLevel(logging.DEBUG)
    try:
        with pytest.raises(raised):
            LlamaModel(smollm2) if what == "model" else LlamaContext(model, n_ctx=256, threads=1)
        assert sent and signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
        logger.removeHandler(send)
        logger.setLevel(level)


def test_a_signal_ends_a_forward_pass_at_once_and_its_exception_is_not_lost(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the log callback either, to which llama.cpp tells that the pass ended early."""
    decode = llama_cpp.llama_decode
    tokens = list(range(259, 309))
    statuses: list[int] = []

    def interrupted(context: object, batch: object) -> int:
        ctypes.memset(ENDING, signal.SIGINT, 1)  # as it is filled in the middle of a pass
        signal.raise_signal(signal.SIGINT)
        statuses.append(int(decode(context, batch)))
        return statuses[-1]

    context = LlamaContext(tiny, n_ctx=256, threads=1)
    expected = present(context.prefill(tokens)).tolist()
    context.rewind(40)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), heeded_signals():
        patch.setattr(llama_cpp, "llama_decode", interrupted)
        context.prefill(tokens)
    assert statuses == [2], "aborted"
    assert context.cached(tokens) == 40
    context.forget()
    assert present(context.prefill(tokens)).tolist() == expected
    context.close()


@pytest.mark.parametrize("params", [{}, {"temperature": 0.8}])
def test_logits_that_are_no_numbers_are_said_to_be_none(model: LlamaModel, params: dict[str, Any]) -> None:
    sampler = LlamaSampler(model.vocabulary, SamplingParams(**params))
    with pytest.raises(EvaluationError, match="no numbers"):
        sampler.choose(np.full(model.vocabulary.size, np.nan, np.float32))


def test_more_logprobs_than_tokens_are_all_of_them(tmp_path: Path) -> None:
    model = LlamaModel(tiny_model(tmp_path / "tiny.gguf", n_vocab=300))
    sampler = LlamaSampler(model.vocabulary, SamplingParams(logprobs=1000))
    assert sampler.choose(np.arange(300, dtype=np.float32)) == 299
    assert [token for token, _ in sampler.logprobs[0].top] == [*reversed(range(300))]
    model.close()


@pytest.mark.parametrize("template", ["{% nonsense %}", "{{ messages | nonsense }}", "{% for"])
def test_a_chat_template_that_is_none_gets_one_line(tmp_path: Path, template: str) -> None:
    model = LlamaModel(tiny_model(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": template}))
    with pytest.raises(UnsupportedModel, match=r"the chat template of tiny.gguf cannot be used .*--raw"):
        model.render([{"role": "user", "content": "a"}])
    model.close()


def test_pieces_join_to_the_text(model: LlamaModel) -> None:
    text = "Grüße, 世界! 🦊\n\tdef f(x): return x ** 2"
    tokens = model.vocabulary.tokenize(text)
    assert b"".join(map(model.vocabulary.piece, tokens)).decode() == text
    end = model.vocabulary.tokenize("<|im_end|>")
    assert len(end) == 1 and model.vocabulary.is_end(end[0]) and model.vocabulary.piece(end[0]) == b""
    with pytest.raises(InvalidRequest):
        model.vocabulary.piece(10**6)


@pytest.fixture
def row(make_context: Callable[..., LlamaContext], text: list[int]) -> Row:
    row: Row = present(make_context().prefill(text[:120])).copy()
    return row


def reference(row: Row, params: SamplingParams) -> npt.NDArray[np.intp]:
    """The survivors of llama.cpp's filters, by their definitions."""
    ids = np.argsort(-row, kind="stable")
    if params.top_k:
        ids = ids[: params.top_k]
    for cut in ("top_p", "min_p"):
        p = np.exp(log_probabilities(row[ids]))
        if cut == "top_p" and params.top_p < 1:
            ids = ids[: int(np.searchsorted(np.cumsum(p), params.top_p) + 1)]
        if cut == "min_p" and params.min_p > 0:
            ids = ids[p >= params.min_p * p.max()]
    return ids


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.3, top_k=40, seed=1),
        SamplingParams(temperature=1.3, top_p=0.9, seed=1),
        SamplingParams(temperature=1.3, min_p=0.02, seed=1),
        SamplingParams(temperature=0.8, top_k=50, top_p=0.95, min_p=0.05, seed=1),
        SamplingParams(temperature=1.0, seed=1),
    ],
    ids=str,
)
def test_choices_are_the_keyed_draw_from_the_filtered_row(model: LlamaModel, row: Row, params: SamplingParams) -> None:
    sampler = LlamaSampler(model.vocabulary, params, position=100)
    ids = reference(row, params)
    for position in range(100, 150):
        assert sampler.choose(row) == draw(ids, row[ids] / np.float32(params.temperature), params.seed, position)


def test_penalties_reach_what_they_would_on_the_whole_row(model: LlamaModel, row: Row, text: list[int]) -> None:
    best = int(row.argmax())
    params = SamplingParams(repeat_penalty=1.5, frequency_penalty=0.5, presence_penalty=0.3, logit_bias={5: 1000.0})
    assert LlamaSampler(model.vocabulary, params).choose(row) == 5
    sampler = LlamaSampler(model.vocabulary, SamplingParams(presence_penalty=100.0), history=[best])
    assert sampler.choose(row) != best
    once, twice = (
        LlamaSampler(model.vocabulary, SamplingParams(frequency_penalty=0.7, logprobs=0), history=[best] * n)
        for n in (1, 2)
    )
    expected = row.copy()
    for sampler in (once, twice):
        expected[best] -= np.float32(0.7)
        assert sampler.choose(row) == int(expected.argmax())


def test_dry_breaks_a_loop(model: LlamaModel, row: Row) -> None:
    loop = [10, 11, 12, 13] * 6
    flat = np.zeros_like(row)
    flat[10] = 3.0  # the loop would go on with 10
    flat[20] = 2.0
    assert LlamaSampler(model.vocabulary, SamplingParams(), history=loop).choose(flat) == 10
    assert LlamaSampler(model.vocabulary, SamplingParams(dry_multiplier=5.0), history=loop).choose(flat) == 20


def test_log_probabilities_come_with_every_token(model: LlamaModel, row: Row) -> None:
    sampler = LlamaSampler(model.vocabulary, SamplingParams(logprobs=3))
    token = sampler.choose(row)
    (entry,) = sampler.logprobs
    assert entry.token == token == entry.top[0][0]
    assert entry.logprob == pytest.approx(log_probabilities(row)[token])
    assert [p for _, p in entry.top] == sorted((p for _, p in entry.top), reverse=True) and len(entry.top) == 3


def test_a_schema_is_obeyed(model: LlamaModel, make_context: Callable[..., LlamaContext]) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "people": {"type": "integer"}},
              "required": ["city", "people"]}  # fmt: skip
    params = SamplingParams(grammar=schema_to_grammar(schema), temperature=1.0, seed=4)
    context = make_context()
    tokens = model.vocabulary.tokenize(model.render([{"role": "user", "content": "Tell me about a city, as JSON."}]))
    sampler = LlamaSampler(model.vocabulary, params)
    row = present(context.prefill(tokens))
    answer: list[int] = []
    while len(answer) < 120 and not (answer and model.vocabulary.is_end(answer[-1])):
        answer.append(sampler.choose(row))
        row = context.evaluate([*tokens, *answer], NOTHING).rows[0]
    parsed = json.loads(b"".join(map(model.vocabulary.piece, answer)))
    assert isinstance(parsed["city"], str) and isinstance(parsed["people"], int)


@pytest.mark.parametrize("grammar", [" ", "this is none", 'root ::= "a', 'start ::= "a"', "root ::= root"])
def test_bad_grammars_are_refused(model: LlamaModel, grammar: str) -> None:
    with pytest.raises(GrammarError):
        LlamaSampler(model.vocabulary, SamplingParams(grammar=grammar))


def test_a_fulfilled_grammar_allows_only_the_end(model: LlamaModel, row: Row) -> None:
    sampler = LlamaSampler(model.vocabulary, SamplingParams(grammar='root ::= "a"'))
    assert model.vocabulary.piece(sampler.choose(row)) == b"a"
    assert model.vocabulary.is_end(sampler.choose(row))


def test_biases_outside_the_vocabulary_are_refused(model: LlamaModel) -> None:
    with pytest.raises(InvalidRequest, match="49152"):
        LlamaSampler(model.vocabulary, SamplingParams(logit_bias={49152: 1.0}))
