"""No text ends the process, and its ids are llama.cpp's own."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.tokenizing import RUN, apart, as_edgespec, as_llama_cpp, compare, hostile_texts, models
from edgespec.backend import LlamaModel, LlamaVocabulary, tokenizing
from edgespec.backend.load_once import load_once
from edgespec.errors import InvalidRequest
from tests.gguf_files import byte_level, tiny_model

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="it forks, so that a signal ends a child alone")

MATCHED_BY_RECURSION = ("gpt-4o", "tekken", "deepseek-v3", "deepseek-llm", "seed-coder", "bailingmoe", "exaone-moe")


def _model(folder: Path, pre: str = "gpt-4o", **more: tuple[str, ...]) -> LlamaModel:
    return LlamaModel(tiny_model(folder / "model.gguf", metadata=byte_level(pre, **more)))  # type: ignore[arg-type]


@needs_fork
@pytest.mark.parametrize("pre", MATCHED_BY_RECURSION)
def test_a_long_run_ends_no_process(pre: str, tmp_path: Path) -> None:
    model = _model(tmp_path, pre)
    for text in ("A" * RUN, "." * RUN, " " * RUN + "x"):
        ours = apart(lambda text=text: as_edgespec(model, text))  # type: ignore[misc]
        assert ours.signal == 0
        assert ours == apart(lambda text=text: as_llama_cpp(model, text, 64 << 20))  # type: ignore[misc]


@needs_fork
def test_every_kind_of_vocabulary_reads_hostile_texts_as_llama_cpp_does(tmp_path: Path) -> None:
    texts = [text for text in hostile_texts() if len(text.text) <= RUN]
    for number, (name, metadata) in enumerate(models()):
        if number % 25 == 3:
            model = LlamaModel(tiny_model(tmp_path / "model.gguf", metadata=metadata))
            for text in (texts[(number + step) % len(texts)] for step in range(0, 40, 10)):
                outcome = compare(model, text.text)
                good = ("same ids", "refused: not UTF-8", "ids; llama.cpp alone ends by signal 11")
                assert outcome in good, (name, text.name)
            model.close()


@needs_fork
@pytest.mark.parametrize("stack", [256 << 10, 512 << 10])
def test_threads_with_small_stacks_can_tokenize(stack: int, tmp_path: Path) -> None:
    model = _model(tmp_path)

    def found() -> str:
        digests: list[str] = []
        threading.stack_size(stack)
        thread = threading.Thread(target=lambda: digests.extend(as_edgespec(model, "A" * n) for n in (100, 128, 8000)))
        thread.start()
        thread.join()
        assert threading.stack_size() == stack  # what others set stays
        return " ".join(digests)

    end = apart(found)
    assert end.signal == 0
    assert end.found == apart(lambda: " ".join(as_edgespec(model, "A" * n) for n in (100, 128, 8000))).found


@needs_fork
def test_a_megabyte_in_a_line(tmp_path: Path) -> None:
    assert compare(_model(tmp_path), next(text.text for text in hostile_texts() if "words in a line" in text.name)) == (
        "same ids"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A" * 2_000_000, "2000000 characters without a line break: break it into lines"),
        ("A\n" * (1 << 25) + "A", "at most 64 can be read at once"),
        ("a\ud800", "not UTF-8 text: character 1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=message):
        _model(tmp_path).vocabulary.tokenize(text)


def test_no_memory_for_the_stack_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    vocabulary = _model(tmp_path).vocabulary
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(InvalidRequest, match="no memory to read a line of 500 characters"):
        vocabulary.tokenize("A" * 500)


def test_a_signal_waits_for_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    release = threading.Event()
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if not release.is_set():
            release.set()
            raise KeyboardInterrupt
        join(thread, timeout)

    def call() -> list[int]:
        release.wait(10)
        ended.append(True)
        return [1]

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenizing._on_stack(1 << 20, call, "a text")
    assert ended == [True]


def test_a_signal_waits_for_a_tokenizer_that_is_starting(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    ended: list[bool] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        started = vars(thread)["_started"]  # the event that `start` waits for, and that `is_alive` asks
        let_know, wait = started.set, started.wait

        def late() -> None:
            time.sleep(0.2)
            let_know()

        def interrupted_wait() -> None:
            signal.raise_signal(signal.SIGINT)
            wait()

        started.set, started.wait = late, interrupted_wait
        start(thread)

    def call() -> list[int]:
        ended.append(True)
        return [1]

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    before = signal.signal(signal.SIGINT, interrupt)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with pytest.raises(KeyboardInterrupt):
        tokenizing._on_stack(1 << 20, call, "a text")
    assert ended == [True]


def test_an_error_in_the_thread_is_raised() -> None:
    def call() -> list[int]:
        raise ValueError("out of range")

    with pytest.raises(ValueError, match="out of range"):
        tokenizing._on_stack(1 << 20, call, "a text")


@needs_fork
@pytest.mark.parametrize("defined", [(), ("  ",)])
def test_a_vocabulary_that_ends_the_process_at_blanks_is_found_by_the_load_check(
    defined: tuple[str, ...], tmp_path: Path
) -> None:
    path = tiny_model(tmp_path / "model.gguf", metadata=byte_level("whitespace", defined=defined))

    def load() -> str:
        load_once(str(path))
        return "loaded"

    assert apart(load).signal


def _spelled(vocabulary: LlamaVocabulary, ids: list[int]) -> list[str]:
    return [vocabulary.special_piece(token) for token in ids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["<s>", "a"]),
        ("<s>a", ["<s>", "a"]),
        ("\n<s>a", ["\n", "<s>", "a"]),
        (" \n <s>a", [" ", "\n", " ", "<s>", "a"]),
        ("a<s>", ["<s>", "a", "<s>"]),
        ("", ["<s>"]),
    ],
)
@pytest.mark.parametrize("adds_end", [False, True])
def test_a_prompt_has_one_bos_token_and_no_end(text: str, expected: list[str], adds_end: bool, tmp_path: Path) -> None:
    keys = {
        **byte_level("llama-bpe", merges=[("x", "x")], controls=("<s>", "</s>")),
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": adds_end,
    }
    vocabulary = LlamaModel(tiny_model(tmp_path / "model.gguf", metadata=keys)).vocabulary
    assert _spelled(vocabulary, vocabulary.tokenize_prompt(text)) == expected


def test_a_model_that_wants_a_bos_token_and_has_none_goes_without(tmp_path: Path) -> None:
    keys = {**byte_level("gpt-2"), "tokenizer.ggml.add_bos_token": True}
    vocabulary = LlamaModel(tiny_model(tmp_path / "model.gguf", metadata=keys)).vocabulary
    assert _spelled(vocabulary, vocabulary.tokenize_prompt("ab"))[-2:] == ["a", "b"]


def test_control_tokens_are_recognised_on_request_and_user_defined_ones_always(tmp_path: Path) -> None:
    vocabulary = _model(tmp_path, "qwen2", defined=("<think>",)).vocabulary
    spelled: Callable[[list[int]], list[str]] = lambda ids: _spelled(vocabulary, ids)  # noqa: E731
    assert spelled(vocabulary.tokenize("a<|im_end|><think>")) == ["a", "<|im_end|>", "<think>"]
    assert spelled(vocabulary.tokenize("a<|im_end|><think>", special=False)) == [*"a<|im_end|>", "<think>"]
    end, think = vocabulary.tokenize("<|im_end|><think>")
    assert (vocabulary.is_control(end), vocabulary.is_user_defined(end)) == (True, False)
    assert (vocabulary.is_control(think), vocabulary.is_user_defined(think)) == (False, True)
    assert (vocabulary.control_text(end), vocabulary.control_text(think)) == ("<|im_end|>", "")
