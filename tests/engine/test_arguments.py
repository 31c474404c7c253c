"""Any value as any argument gives a result or an EdgespecError, never another exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgespec
from edgespec import Engine, SamplingParams
from edgespec.decode.options import GenerationOptions
from edgespec.engine.messages import conversation
from edgespec.engine.options import EngineOptions
from edgespec.errors import EdgespecError, InvalidRequest, UnknownDrafter
from edgespec.integrations.llama_cpp import DraftModel
from edgespec.vocabtrim.answers import AnswerSettings
from tests.gguf_files import tiny_model
from tests.values import ANY_VALUE

TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"

PLAIN = (int, float, str, bool, type(None))
"""The types of the values that options store, but for collections of them and other options."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("arguments")
    path = tiny_model(folder / "tiny.gguf", metadata={"tokenizer.chat_template": TEMPLATE})
    with edgespec.load(path, n_ctx=256, threads=1, cache_dir=str(folder)) as engine:
        yield engine


OPTIONS: list[tuple[Any, str]] = [
    (kind, field.name)
    for kind in (SamplingParams, GenerationOptions, EngineOptions, AnswerSettings)
    for field in fields(kind)
]


@pytest.mark.parametrize(("kind", "name"), OPTIONS, ids=lambda value: getattr(value, "__name__", value))
@given(value=ANY_VALUE)
def test_options_take_any_value_or_refuse_it(kind: Any, name: str, value: Any) -> None:
    try:
        made = kind(**{name: value})
    except EdgespecError as error:
        assert name in str(error)
        return
    stored = getattr(made, name)
    if name == "logit_bias":
        assert all(type(token) is int and type(bias) is float for token, bias in stored.items())
    elif name in ("stop", "dry_breakers"):
        assert type(stored) is tuple and all(type(text) is str for text in stored)
    elif name not in ("sampling", "drafter", "cache_dir"):
        assert type(stored) in PLAIN


MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]) | ANY_VALUE, "content": ANY_VALUE})
PROMPT = ANY_VALUE | st.lists(MESSAGE | ANY_VALUE, max_size=2)


def calls(engine: Engine, value: Any) -> dict[str, Callable[[], object]]:
    """Calls with `value` as one of their arguments, by that argument's name."""
    short: dict[str, Any] = {"max_tokens": 2}
    return {
        "prompt": lambda: engine.generate(value, **short),
        "raw prompt": lambda: engine.generate(value, raw=True, **short),
        "system": lambda: engine.generate("w300", system=value, **short),
        "raw": lambda: engine.generate("w300", raw=value, **short),
        "on_prefill": lambda: engine.stream("w300", on_prefill=value, **short),
        "sampling": lambda: engine.generate("w300", sampling=value, **short),
        "max_tokens": lambda: engine.stream("w300", max_tokens=value),
        "stop": lambda: engine.generate("w300", stop=value, **short),
        "overflow": lambda: engine.generate("w300", overflow=value, **short),
        "explain": lambda: engine.generate("w300", explain=value, **short),
        "shifting prompt": lambda: engine.generate(value, overflow="shift", **short),
        "system of a chat": lambda: engine.chat(value),
        "new system": lambda: setattr(engine.chat(), "system", value),
        "text": lambda: engine.chat().stream(value, **short),
        "options of a chat": lambda: engine.chat().stream("w300", stop=value, max_tokens=2),
        "tokens": lambda: engine.session(value, **short).step(),
        "drafting": lambda: setattr(engine, "drafting", value),
        "tokenize": lambda: engine.tokenize(value),
        "piece": lambda: engine.model.vocabulary.piece(value),
        "is_end": lambda: engine.model.vocabulary.is_end(value),
        "bias": lambda: engine.generate("w300", sampling=SamplingParams(logit_bias=value), **short),
        "grammar": lambda: engine.stream("w300", sampling=SamplingParams(grammar=value), **short),
        "Llama's drafter": lambda: DraftModel(value),
        "Llama's most": lambda: DraftModel(max_tokens=value),
        "Llama's confidence": lambda: DraftModel(confidence=value),
    }


@given(value=PROMPT, data=st.data())
def test_calls_take_any_value_or_refuse_it(engine: Engine, value: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(calls(engine, None))))
    try:
        calls(engine, value)[name]()
    except EdgespecError as error:
        assert "\n" not in str(error)
    assert engine.generate("w301", max_tokens=1).emitted


@pytest.mark.parametrize("name", [field.name for field in fields(EngineOptions)])
@given(value=ANY_VALUE)
def test_load_takes_any_value_or_refuses_it(engine: Engine, name: str, value: Any) -> None:
    refused = {"model": "no such file.gguf", "threads": 0}  # so that nothing is loaded where the value can be used
    if name == "threads":
        refused["n_ctx"] = refused.pop("threads")
    with pytest.raises(EdgespecError):
        edgespec.load(**{**refused, name: value})


@pytest.mark.parametrize("seed", [np.int64(5), np.uint32(5)])
def test_a_seed_of_numpy_is_a_seed(engine: Engine, seed: Any) -> None:
    said = engine.generate("w300", sampling=SamplingParams(temperature=1.0, seed=seed), max_tokens=8)
    plain = engine.generate("w300", sampling=SamplingParams(temperature=1.0, seed=5), max_tokens=8)
    assert said.emitted == plain.emitted and type(SamplingParams(seed=seed).seed) is int


def test_none_is_the_default(engine: Engine) -> None:
    empty: Any = None
    assert type(SamplingParams(seed=empty).seed) is int
    assert GenerationOptions(empty, empty, empty, empty, empty) == GenerationOptions()
    assert engine.generate("w300", max_tokens=None, stop=None, overflow=None, sampling=None).emitted
    assert EngineOptions(gpu_layers=empty, kv_type=empty, flash_attention=empty, exact=empty) == EngineOptions()


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (SamplingParams, {"top_k": 40.0}, "top_k is 40.0: it must be a whole number"),
        (SamplingParams, {"temperature": "0.7"}, "temperature is '0.7': it must be a number"),
        (SamplingParams, {"temperature": True}, "temperature is True"),
        (SamplingParams, {"seed": 3.7}, "seed is 3.7: it must be a whole number from 0 to 18446744073709551615"),
        (SamplingParams, {"logit_bias": {"5": 1.0}}, "a token id in logit_bias is '5'"),
        (SamplingParams, {"logit_bias": [5]}, r"logit_bias is \[5\]: it must be a mapping of token ids to numbers"),
        (SamplingParams, {"logprobs": True}, "logprobs is True"),
        (GenerationOptions, {"overflow": "wrap"}, "overflow is 'wrap': it must be one of stop, shift"),
        (GenerationOptions, {"stop": ["a", 5]}, r"stop\[1\] is 5: it must be a text"),
        (GenerationOptions, {"max_tokens": 1.5}, "max_tokens is 1.5"),
        (GenerationOptions, {"sampling": {"temperature": 1}}, "sampling is .*: it must be SamplingParams"),
        (EngineOptions, {"n_ctx": "512"}, "n_ctx is '512': it must be a whole number from 8"),
        (EngineOptions, {"kv_type": "q3"}, "kv_type is 'q3': it must be one of f32, f16"),
        (EngineOptions, {"exact": "no"}, "exact is 'no': it must be True or False"),
    ],
    ids=str,
)
def test_the_error_names_argument_and_value(kind: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        kind(**wrong)


def test_numpys_numbers_are_stored_as_pythons() -> None:
    params = SamplingParams(temperature=np.float32(0.7), top_k=np.int64(40), logit_bias={np.int64(3): np.float32(-1)})
    assert (type(params.temperature), type(params.top_k), params.logit_bias) == (float, int, {3: -1.0})


def test_a_drafter_that_is_none_has_no_default() -> None:
    with pytest.raises(UnknownDrafter, match="None is not a drafter"):
        edgespec.load("no such file.gguf", drafter=None)  # type: ignore[arg-type]


def test_parts_of_a_message_are_joined() -> None:
    parts: Any = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert conversation([{"role": "user", "content": parts, "name": "Ann"}], "c") == [
        {"role": "system", "content": "c"},
        {"role": "user", "content": "ab", "name": "Ann"},
    ]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, "prompt is 5: it must be a text or a list of messages"),
        (None, "prompt is None"),
        ({"role": "user", "content": "a"}, "prompt is .*: it must be a text or a list"),
        ([{"role": "user"}], r"prompt\[0\] is .*: a message is"),
        (["hello"], r"prompt\[0\] is 'hello': a message is"),
        ([{"role": "robot", "content": "a"}], "the role of .* is 'robot': it must be one of system, developer, user"),
        ([{"role": "user", "content": 5}], "the content of .* is 5: it must be a text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "the content of .* has .*: a part is"),
        ("\ud800", "prompt is not UTF-8 text: character 0 is none"),
    ],
    ids=str,
)
def test_what_is_no_conversation(prompt: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        conversation(prompt, None)


@pytest.mark.parametrize("wrong", ["x" * 5000, "y" * 300 + ".gguf", "a\0b"], ids=["long", "long name", "NUL"])
@pytest.mark.parametrize("name", ["model", "drafter", "cache_dir"])
def test_a_path_that_no_file_can_have(name: str, wrong: str) -> None:
    given: dict[str, Any] = {"model": "no such file.gguf", name: wrong}
    with pytest.raises(InvalidRequest, match=f"^{name} is .*: it must be "):
        edgespec.load(**given)
